"""Models of other people: what they answer, what they learn, and everything they may do instead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ls_backend.errors import ForeignModelFailed, ForeignModelUnknown
from ls_backend.foreign import Answer, Failure

OBEDIENT = "odd:Obedient"


def task(number, text):
    return {"id": number, "data": {"text": text}, "project": 7, "annotations": [], "predictions": []}


def annotated(number, text, label="a", *, was_cancelled=False):
    region = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    annotation = {"id": 100 + number, "result": [region], "was_cancelled": was_cancelled, "ground_truth": False}
    return {**task(number, text), "annotations": [annotation]}


def ask(predictor, *texts, **more):
    return predictor.predict([task(number, text) for number, text in enumerate(texts)], **more)


def kinds(found):
    return [item.kind if isinstance(item, Failure) else "answer" for item in found]


def labels(found):
    return [item.regions[0]["value"]["choices"][0] for item in found if isinstance(item, Answer)]


def meta(answer):
    return answer.regions[0]["meta"]


def gone(pid, within_s=10):
    """Whether a process has ended, or is about to."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


# -- answers --


def test_a_model_answers_for_every_task_in_order_and_stays_warm(second):
    predictor = second(OBEDIENT)
    texts = [f"text {number}" for number in range(40)]
    found = ask(predictor, *texts)
    assert labels(found) == texts
    assert [item.task_id for item in found] == list(range(40))
    assert {item.score for item in found} == {0.75}
    (again,) = ask(predictor, "one more")
    assert meta(again)["pid"] == meta(found[0])["pid"]


def test_no_tasks_are_no_answers(second):
    assert ask(second(OBEDIENT)) == []


def test_what_an_interactive_request_carries_reaches_the_model(second):
    context = {"result": [{"type": "keypointlabels", "value": {"x": 1.0}}]}
    (answer,) = ask(second(OBEDIENT), "text", context=context)
    assert meta(answer)["context"] == context


def test_answers_of_many_shapes_are_read_and_the_unreadable_ones_cost_only_themselves(second):
    found = ask(second(OBEDIENT), "well", "none", "nothing", "number", "alternatives")
    assert kinds(found) == ["answer", "wrong-shape", "answer", "wrong-shape", "answer"]
    assert (found[2].regions, found[2].score) == ((), None)
    assert "int" in found[3].message
    assert found[4].score == 0.7


# -- what goes wrong --


def test_a_text_the_model_cannot_digest_costs_only_itself(second):
    found = ask(second(OBEDIENT), "one", "raise", "two", "quit", "three")
    assert kinds(found) == ["answer", "raised", "answer", "raised", "answer"]
    assert labels(found) == ["one", "two", "three"]
    assert "ValueError: no features for one of 1 texts" in found[1].message
    assert "SystemExit: I have had enough" in found[3].message


def test_too_few_entries_are_not_dealt_to_the_wrong_tasks(second):
    found = ask(second(OBEDIENT), "one", "short", "two")
    assert kinds(found) == ["answer", "wrong-count", "answer"]
    assert labels(found) == ["one", "two"]
    assert "0 entries for 1 tasks" in found[1].message


def test_a_model_that_hangs_is_ended_and_started_again(second):
    predictor = second(OBEDIENT, timeout_s=5)
    (before,) = ask(predictor, "before")
    found = ask(predictor, "one", "hang", "two")
    assert kinds(found) == ["answer", "hung", "answer"]
    assert "within 5 s" in found[1].message
    assert gone(meta(before)["pid"])


@pytest.mark.parametrize(("text", "words"), [("die", "exit status 7"), ("crash", "SIGSEGV")])
def test_a_model_that_takes_its_process_along_costs_only_its_task(second, text, words):
    found = ask(second(OBEDIENT), "one", text, "two")
    assert kinds(found) == ["answer", "died", "answer"]
    assert words in found[1].message


def test_a_model_that_always_dies_is_given_up_soon(second):
    found = ask(second(OBEDIENT), *["die"] * 40)
    assert kinds(found) == ["died"] * 2 + ["given-up"] * 38
    assert "exit status 7" in found[-1].message


def test_a_model_that_always_raises_is_given_up_and_asked_again_the_next_time(second):
    predictor = second(OBEDIENT)
    found = ask(predictor, *["raise"] * 60)
    assert set(kinds(found[:16])) == {"raised"}
    assert kinds(found)[-1] == "given-up"
    assert kinds(ask(predictor, "well")) == ["answer"]


def test_a_process_that_somebody_killed_between_two_calls_is_started_again(second):
    predictor = second(OBEDIENT)
    (answer,) = ask(predictor, "one")
    os.kill(meta(answer)["pid"], signal.SIGKILL)
    assert gone(meta(answer)["pid"])
    assert kinds(ask(predictor, "two")) == ["answer"]
    os.kill(predictor._process.pid, signal.SIGKILL)
    assert gone(predictor._process.pid)
    predictor.fit([annotated(1, "three")], "START_TRAINING")


def test_closing_ends_the_process_and_another_call_starts_a_new_one(second):
    predictor = second(OBEDIENT)
    (answer,) = ask(predictor, "one")
    predictor.close()
    assert gone(meta(answer)["pid"])
    predictor.close()
    assert kinds(ask(predictor, "two")) == ["answer"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux' signal at the parent's death")
def test_the_model_dies_with_its_parent_even_while_it_hangs(search, tmp_path):
    search("second", "models")
    program = (
        "import os, sys, threading\nfrom pathlib import Path\nfrom ls_backend.foreign import Predictor\n"
        f"predictor = Predictor('odd:Obedient', '<View/>', Path({str(tmp_path)!r}), 600)\n"
        "print(predictor.predict([{'id': 1, 'data': {'text': 'x'}}])[0].regions[0]['meta']['pid'], flush=True)\n"
        "predictor.predict([{'id': 1, 'data': {'text': 'hang'}}])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(pid)


# -- what cannot be a model --


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("odd", ForeignModelUnknown, ["'odd'", "expected package.module:ClassName"]),
        ("no.such:Model", ForeignModelUnknown, ["there is no module no;"]),
        ("odd.deeper:Model", ForeignModelUnknown, ["there is no module odd.deeper"]),
        ("odd:Obedience", ForeignModelUnknown, ["no class Obedience", "did you mean Obedient?"]),
        ("odd:Stranger", ForeignModelUnknown, ["Stranger does not derive from LabelStudioMLBase"]),
        ("os:sep", ForeignModelUnknown, ["sep does not derive", "expected a class"]),
        ("broken:Model", ForeignModelUnknown, ["a_library_nobody_has", "not installed"]),
        ("exploding:Model", ForeignModelUnknown, ["RuntimeError: not on this machine"]),
    ],
)
def test_a_path_that_leads_to_no_model_is_refused_with_the_remedy(search, path, kind, words):
    # In a process of its own, for the class that counts is the one of the installed package.
    search("second", "models")
    program = (
        "import sys\nfrom ls_backend.errors import BackendError\nfrom ls_backend.foreign.host import load_class\n"
        "from label_studio_ml.model import LabelStudioMLBase\n"
        "try:\n    load_class(sys.argv[1], LabelStudioMLBase)\n"
        "except BackendError as error:\n    print(type(error).__name__, error, error.hint, sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    name, message, hint = done.stdout.strip().splitlines()
    assert name == kind.__name__
    assert all(word in message for word in words), message
    assert hint


def test_a_wrong_path_is_told_by_the_predictor_with_its_code(second):
    with pytest.raises(ForeignModelUnknown, match="did you mean Obedient") as refused:
        ask(second("odd:Obedience"), "text")
    assert refused.value.code == "foreign-model-unknown"
    assert "setting model" in refused.value.hint


def test_a_constructor_that_never_ends_is_ended(second):
    with pytest.raises(ForeignModelFailed, match=r"odd:Slow could not be constructed.*within 5 s"):
        ask(second("odd:Slow", load_timeout_s=5), "text")


# -- learning, 2.x --


def test_a_2x_model_learns_from_all_tasks_at_once(second):
    predictor = second("second_only:Counting")
    tasks = [annotated(1, "x"), annotated(2, "y", was_cancelled=True), annotated(3, "z"), task(4, "unlabelled")]
    predictor.fit(tasks, "START_TRAINING")
    assert predictor.version == "fit-1"
    one, two, three = ask(predictor, "a", "b", "c", context={"result": ["drawn"]})
    assert meta(one)["told"] == ["START_TRAINING 7 2", "drawn"]
    assert [answer.model_version for answer in (one, two, three)] == ["0.0.2"] * 3
    assert (one.score, two.score) == (0.25, 0.5)
    assert three.score is None, "the SDK's default of 0 is not what the model said"
    assert three.regions[0]["score"] == 0.125


def test_a_2x_model_hears_of_each_annotation_and_keeps_what_it_learned(second):
    predictor = second("second_only:Counting")
    predictor.fit([annotated(1, "x"), annotated(2, "y")], "ANNOTATION_CREATED")
    predictor.close()
    successor = second("second_only:Counting")
    (answer,) = ask(successor, "a")
    assert meta(answer)["told"] == ["ANNOTATION_CREATED 101 of 1", "ANNOTATION_CREATED 102 of 2"]
    assert (successor.version, answer.model_version) == ("fit-1", "0.0.3")


def test_a_2x_model_may_answer_with_plain_lists_and_take_no_more_than_it_must(second):
    predictor = second("second_only:Listing")
    predictor.fit([annotated(1, "x")], "START_TRAINING")
    (answer,) = ask(predictor, "a")
    assert (answer.score, answer.model_version) == (0.5, "9.9.9")


@pytest.mark.parametrize(("text", "words"), [("raise", "ValueError: cannot learn this"), ("hang", "within 5 s")])
def test_a_model_that_cannot_learn_says_so_and_predicts_as_before(second, text, words):
    predictor = second(OBEDIENT, fit_timeout_s=5)
    with pytest.raises(ForeignModelFailed, match=rf"odd:Obedient did not learn: .*{words}"):
        predictor.fit([annotated(1, text)], "START_TRAINING")
    assert kinds(ask(predictor, "well")) == ["answer"]
    assert predictor.version == "initial"


# -- the real 1.0.9 --


def test_a_1x_model_gets_its_labels_in_the_ecosystem_s_shape_and_its_output_at_the_next_construction(first, tmp_path):
    predictor = first("odd:Remembering")
    assert [item.model_version for item in ask(predictor, "a")] == ["None"]
    predictor.fit([annotated(1, "x"), annotated(2, "y", was_cancelled=True), task(3, "z")], "START_TRAINING")
    (answer,) = ask(predictor, "a")
    seen = {"texts": ["x"], "annotations": [1], "completions": [1], "workdir": True, "told": []}
    assert answer.model_version == str(seen)
    assert predictor.version == "fit-1"
    with pytest.raises(ForeignModelFailed, match="no JSON"):
        predictor.fit([annotated(1, "spoil")], "START_TRAINING")
    assert sorted(path.name for path in (tmp_path / "model" / "fits").iterdir()) == ["1"]
    predictor.close()
    assert [item.model_version for item in ask(first("odd:Remembering"), "a")] == [str(seen)]


def test_a_1x_model_that_insists_on_the_webhook_s_words_gets_them(first):
    predictor = first("odd:WebhookOnly")
    predictor.fit([annotated(1, "x"), annotated(2, "y")], "ANNOTATION_CREATED")
    (answer,) = ask(predictor, "a")
    assert answer.model_version == "ANNOTATION_CREATED 7 102 2"


def test_a_1x_model_is_told_where_label_studio_is_and_fails_like_any_other(first):
    predictor = first(OBEDIENT, hostname="http://label-studio:8080")
    found = ask(predictor, "one", "raise", "short")
    assert kinds(found) == ["answer", "raised", "wrong-count"]
    assert meta(found[0])["hostname"] == "http://label-studio:8080"


def test_a_constructor_that_raises_is_told_in_one_line(first):
    with pytest.raises(ForeignModelFailed, match="odd:Choosy raised RuntimeError: I only work with audio in its"):
        ask(first("odd:Choosy"), "text")
