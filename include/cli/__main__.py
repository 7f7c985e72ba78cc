"""`python -m include.cli`: what `./tradewind` runs."""

from include.cli.app import app

if __name__ == "__main__":
    app(prog_name="tradewind")
