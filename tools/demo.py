"""`mmnas demo`, from a checkout: `python tools/demo.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('demo')

if __name__ == '__main__':
    main()
