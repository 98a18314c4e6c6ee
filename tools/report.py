"""`mmnas report`, from a checkout: `python tools/report.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('report')

if __name__ == '__main__':
    main()
