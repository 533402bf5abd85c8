"""`python -m gateway` is the `sluice` command."""

from gateway.entry import main

if __name__ == "__main__":
    main()
