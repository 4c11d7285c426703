"""`python -m pconv_cli` is `pconv`."""

from pconv_cli.cli.app import main

if __name__ == "__main__":
    main()
