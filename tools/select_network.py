"""`mmnas select`, from a checkout: `python tools/select_network.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('select')

if __name__ == '__main__':
    main()
