"""`mmnas front`, from a checkout: `python tools/search_front.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('front')

if __name__ == '__main__':
    main()
