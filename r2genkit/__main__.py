"""``python -m r2genkit`` is the ``r2genkit`` command."""

from r2genkit.cli import main

if __name__ == "__main__":
    main()
