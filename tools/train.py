"""`mmnas train`, from a checkout: `python tools/train.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('train')

if __name__ == '__main__':
    main()
