"""`mmnas shapes`, from a checkout: `python tools/make_shapes.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('shapes')

if __name__ == '__main__':
    main()
