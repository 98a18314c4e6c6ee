"""`mmnas convert`, from a checkout: `python tools/convert_checkpoint.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('convert')

if __name__ == '__main__':
    main()
