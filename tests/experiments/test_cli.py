import json

import pytest
from typer.testing import CliRunner

from r2genkit import cli
from r2genkit.errors import KitError
from tests.command import call

runner = CliRunner()
COMMANDS = [
    ["doctor"],
    ["train"],
    ["pretrain"],
    ["rates"],
    ["evaluate"],
    ["generate"],
    ["explain"],
    ["private"],
    ["score"],
    ["compare"],
    ["reproduce"],
    ["table"],
    *(["data", name] for name in ("list", "check", "download", "render", "export", "audit")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_explains_every_command_and_option(command):
    result = runner.invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    text = result.output
    assert len(text.splitlines()[2].split()) > 3  # a sentence, not a name
    for line in text.splitlines():
        if line.strip().startswith("--") and "--help" not in line:
            name, *rest = line.split()
            assert rest or name, line


def test_errors_are_one_sentence_with_exit_code_2(monkeypatch, capsys, tmp_path):
    missing = tmp_path / "nothing.json"
    code, out, err = call(monkeypatch, capsys, "score", missing, missing)
    assert code == 2 and out == ""
    assert "nothing.json does not exist" in err and "Traceback" not in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    missing = tmp_path / "nothing.json"
    monkeypatch.setattr("sys.argv", ["r2genkit", "--debug", "score", str(missing), str(missing)])
    with pytest.raises(KitError):
        cli.main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "03_nothing"], "no recipe '03_nothing'"),
        (["train", "02_constant", "--profile", "fast"], "unknown profile 'fast'"),
        (["train", "02_constant", "--corpus", "mimic"], "unknown corpus 'mimic'"),
        (["train", "02_constant", "--set", "text.min_count"], "key.subkey=value"),
        (["evaluate", "nowhere"], "holds no finished run"),
        (["reproduce", "--only", "77"], "no notebook numbered 77"),
        (["data", "check", "mimic"], "mimic"),
        (["score"], "Missing argument"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_words_are_told_not_thrown(monkeypatch, capsys, arguments, message):
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2 and message in err and "Traceback" not in err


def test_score_prints_every_metric(monkeypatch, capsys, tmp_path):
    references = {"a": "Heart size normal. Small left effusion.", "b": "Lungs are clear."}
    path = tmp_path / "references.json"
    path.write_text(json.dumps(references))
    listed = tmp_path / "predictions.json"
    listed.write_text(json.dumps([{"id": k, "report": v} for k, v in references.items()]))
    code, out, _ = call(monkeypatch, capsys, "score", listed, path, "--bootstrap", "20")
    assert code == 0
    values = {
        line.split("|")[1].strip(): line.split("|")[2].strip()
        for line in out.splitlines()
        if line.startswith("|")
    }
    for metric in ("BLEU-1", "BLEU-4", "ROUGE-L", "finding-F1"):
        assert values[metric] == "1.0000"
    assert {"METEOR", "CIDEr"} <= set(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no reports"),
        ('{"a": 3}', "study a is a int"),
        ('[{"id": "a"}]', "entry 1"),
        ('[{"id": "a", "report": "x"}, {"id": "a", "report": "y"}]', "study a stands there twice"),
        ('{"c": "clear lungs"}', "c"),
    ],
)
def test_unusable_predictions_are_named(monkeypatch, capsys, tmp_path, content, message):
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text(content)
    good.write_text('{"a": "heart normal", "b": "lungs clear"}')
    code, _, err = call(monkeypatch, capsys, "score", bad, good)
    assert code == 2 and message in err


def test_data_list_says_what_is_synthetic(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "data", "list")
    assert code == 0
    assert "phantom  (SYNTHETIC images)" in out and "openi  (real images)" in out
