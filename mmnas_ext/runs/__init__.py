"""From a config to the files of a work dir: methods, the manifest, resume, the run of both halves."""
