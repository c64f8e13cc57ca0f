"""`python -m mmtrt` is the `mmtrt` command."""

from mmtrt.cli.main import main

if __name__ == "__main__":
    main()
