"""`mmnas test`, from a checkout: `python tools/test.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('test')

if __name__ == '__main__':
    main()
