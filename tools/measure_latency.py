"""`mmnas latency`, from a checkout: `python tools/measure_latency.py --help` says what it does."""

from mmnas_ext.cli.main import tool

main = tool('latency')

if __name__ == '__main__':
    main()
