"""Scripts that measure speed and print tables: ``python -m reelrl.zoo.speed.NAME``."""
