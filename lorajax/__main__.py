"""`python -m lorajax`: the console script where no script directory is on the path."""

from lorajax.cli import main

if __name__ == "__main__":
    main(prog_name="lorajax")
