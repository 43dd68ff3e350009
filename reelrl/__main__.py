"""``python -m reelrl`` and the ``reelrl`` command."""


def main() -> None:
    """Run the command line."""
    from reelrl.zoo.cli import main as run

    run()


if __name__ == "__main__":
    main()
