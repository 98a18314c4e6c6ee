"""`mmnas export`, from a checkout: `python tools/export.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('export')

if __name__ == '__main__':
    main()
