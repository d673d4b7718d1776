"""The command line, as the console script calls it."""

from r2genkit import cli


def call(monkeypatch, capsys, *arguments):
    """Run ``main`` with these arguments; return exit code, stdout, stderr."""
    monkeypatch.setattr("sys.argv", ["r2genkit", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as leave:
        code = leave.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err
