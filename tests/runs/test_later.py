"""What a check keeps out of the log."""

import logging

from mmengine.logging import MMLogger

from mmnas_ext.runs.later import quiet


class Teller(logging.Handler):
    """Keeps what it is told."""

    def __init__(self, told):
        super().__init__()
        self.told = told

    def emit(self, record):
        self.told.append(record.getMessage())


def test_a_check_is_quiet_and_what_follows_is_not():
    """Loggers of MMEngine remember what is enabled, and `logging` does not know of them."""
    logger = MMLogger('test_a_check_is_quiet', log_level='INFO')
    told = []
    logger.handlers = [Teller(told)]
    MMLogger._instance_dict[logger.name] = logger
    try:
        logger.info('before')
        with quiet():
            logger.info('inside')
            with quiet(logging.ERROR):
                logger.warning('deeper')
            logger.debug('inside')
            logger.warning('told inside')
        logger.info('after')
    finally:
        del MMLogger._instance_dict[logger.name]
    assert told == ['before', 'told inside', 'after']
