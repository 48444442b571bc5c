"""python -m actframe."""

from actframe.cli.main import main

if __name__ == "__main__":
    main()
