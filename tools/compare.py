"""`mmnas compare`, from a checkout: `python tools/compare.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('compare')

if __name__ == '__main__':
    main()
