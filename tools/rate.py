"""`mmnas rate`, from a checkout: `python tools/rate.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('rate')

if __name__ == '__main__':
    main()
