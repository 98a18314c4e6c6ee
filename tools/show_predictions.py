"""`mmnas predict`, from a checkout: `python tools/show_predictions.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('predict')

if __name__ == '__main__':
    main()
