"""`python -m cxr_embed`."""

from cxr_embed.cli import main

if __name__ == "__main__":
    main()
