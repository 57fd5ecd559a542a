"""Scores of captions are those of the definitions, written out plainly here, and of the package that others use."""

import math
from collections import Counter

import numpy as np
import pytest

from captioning import meteor, metrics
from captioning.cider import CiderD
from captioning.metrics import clip_scores, corpus_bleu, rouge_l, score_corpus, summarise, tokens
from recognition.common.command_line import InputError

WORDS = [
    "a",
    "the",
    "man",
    "woman",
    "red",
    "blue",
    "ball",
    "runs",
    "jumps",
    "over",
    "on",
    "it's",
    "(",
    ")",
    ",",
    "and",
    "3",
    ".",
]


def made_up(num_clips: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Captions and references that share some n-grams; one caption is empty, one short, one that of the reference."""
    rng = np.random.default_rng(seed)
    draw = lambda: " ".join(rng.choice(WORDS, rng.integers(3, 15))) + "."  # noqa: E731
    references = [[draw() for _ in range(rng.integers(1, 4))] for _ in range(num_clips)]
    captions = [" ".join(of_clip[0].split()[:6]) + " " + draw() for of_clip in references]
    captions[:3] = ["", "ball", references[2][0]]
    return captions, references


def plain_cider_d(said: list[list[str]], due: list[list[list[str]]]) -> list[float]:
    """CIDEr-D n by n, as its definition reads."""
    grams = lambda words, n: [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]  # noqa: E731
    scores = []
    for words, of_clip in zip(said, due, strict=True):
        total = 0.0
        for reference in of_clip:
            for n in (1, 2, 3, 4):

                def weight(gram, counts, n=n):
                    clips = sum(any(gram in grams(r, n) for r in others) for others in due)
                    return counts[gram] * (math.log(len(due)) - math.log(max(1, clips)))

                h, r = Counter(grams(words, n)), Counter(grams(reference, n))
                wh, wr = {g: weight(g, h) for g in h}, {g: weight(g, r) for g in r}
                norms = math.sqrt(sum(x * x for x in wh.values())) * math.sqrt(sum(x * x for x in wr.values()))
                common = sum(min(wh.get(g, 0.0), wr[g]) * wr[g] for g in wr)
                delta = len(grams(words, 2)) - len(grams(reference, 2))
                total += (common / norms if norms else 0.0) * math.exp(-(delta**2) / 72) / 4
        scores.append(10 * total / len(of_clip))
    return scores


def plain_rouge_l(words: list[str], references: list[list[str]]) -> float:
    def longest(a: list[str], b: list[str]) -> int:
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        for i in range(len(a)):
            for j in range(len(b)):
                table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
        return int(table[-1, -1])

    if not words:
        return 0.0
    precision = max(longest(words, reference) / len(words) for reference in references)
    recall = max(longest(words, reference) / len(reference) for reference in references)
    beta = 1.2
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision * recall else 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's dog isn't here, OK...", "a man 's dog is n't here ok"),
        ('He said "yes" -- then: no; well-known?', "he said yes then no well-known"),
        ("Two (small) {boxes} [open]!", "two -lrb- small -rrb- -lcb- boxes -rcb- -lsb- open -rsb-"),
        ("  the  ball\tgrows . ", "the ball grows"),
        ("", ""),
        ("...", ""),
    ],
)
def test_tokens_are_those_of_the_treebank_without_marks(text: str, words: str):
    assert tokens(text) == words.split()


def test_cider_d_equals_its_definition_written_out():
    captions, references = made_up(12)
    said, due = [tokens(text) for text in captions], [[tokens(text) for text in part] for part in references]
    np.testing.assert_allclose(CiderD(due).scores(said), plain_cider_d(said, due), rtol=0, atol=1e-12)


def test_cider_d_of_one_caption_for_every_clip_equals_that_of_each():
    _, references = made_up(9)
    scorer = CiderD([[tokens(text) for text in part] for part in references])
    words = tokens("the red ball jumps over it")
    np.testing.assert_array_equal(scorer.of_constant(words), scorer.scores([words] * 9))


def test_cider_d_of_exact_captions_is_ten_and_of_a_single_clip_nothing():
    texts = ["a red ball moves left.", "the woman jumps over a man."]
    assert score_corpus(texts, [[text] for text in texts])["cider_d"] == pytest.approx(10)
    assert score_corpus(texts[:1], [texts[:1]])["cider_d"] == 0


def test_a_longer_caption_is_fined_by_its_bigrams():
    due = [["a red ball moves left"], ["the dog sleeps"]]
    exact = score_corpus([due[0][0], ""], due)["cider_d"]
    twice = score_corpus([" ".join([due[0][0]] * 2), ""], due)["cider_d"]
    assert twice < exact * math.exp(-(5**2) / 72) * 1.01


def test_rouge_l_equals_its_definition_written_out():
    captions, references = made_up(12, seed=1)
    for text, of_clip in zip(captions, references, strict=True):
        said, due = tokens(text), [tokens(reference) for reference in of_clip]
        assert rouge_l(said, due) == pytest.approx(plain_rouge_l(said, due), abs=1e-12)


def test_rouge_l_takes_precision_and_recall_from_different_references():
    # Of the first a third is right and all of it said, of the second all is right and half said.
    assert rouge_l(["a", "b", "c"], [["a"], ["a", "b", "c", "d", "e", "f"]]) == 1.0


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_equals_sacrebleu(order: int):
    from sacrebleu.metrics import BLEU

    captions, references = made_up(15, seed=2)
    plain = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order)
    said = [" ".join(tokens(text)) for text in captions]
    due = [[" ".join(tokens(text)) for text in of_clip] for of_clip in references]
    columns = [[of_clip[k] if k < len(of_clip) else None for of_clip in due] for k in range(3)]
    expected = plain.corpus_score(said, columns).score / 100
    assert expected > 0
    assert score_corpus(captions, references)[f"bleu_{order}"] == pytest.approx(expected, abs=1e-12)


def test_means_over_clips_are_means_of_each_clip_alone():
    captions, references = made_up(10, seed=3)
    told = score_corpus(captions, references, "clips", with_meteor=False)
    alone = [
        score_corpus([text], [of_clip], with_meteor=False) for text, of_clip in zip(captions, references, strict=True)
    ]
    for name in ("bleu_1", "bleu_4", "rouge_l"):
        assert told[name] == pytest.approx(np.mean([scores[name] for scores in alone]), abs=1e-12)
    assert told["cider_d"] == score_corpus(captions, references, with_meteor=False)["cider_d"]


def test_an_empty_caption_scores_zero_and_is_not_skipped():
    captions, references = ["a red ball.", "the dog sleeps."], [["a red ball."], ["the dog sleeps."]]
    whole, half = score_corpus(captions, references), score_corpus([captions[0], ""], references)
    assert half["rouge_l"] == pytest.approx(whole["rouge_l"] / 2)
    assert half["cider_d"] == pytest.approx(whole["cider_d"] / 2)
    assert half["bleu_1"] == pytest.approx(math.exp(1 - 6 / 3))
    nothing = score_corpus(["", "."], references)
    assert [nothing[name] for name in metrics.METRICS[:6]] == [0.0] * 6


def test_counts_without_words_give_bleu_zero():
    np.testing.assert_array_equal(corpus_bleu(np.zeros((2, 10))), np.zeros((2, 4)))


def test_a_caption_without_a_reference_is_no_score():
    with pytest.raises(ValueError, match="one or more references"):
        clip_scores(["a ball."], [[]])


@pytest.mark.parametrize("module", ["sacrebleu.metrics", "nltk.tokenize"])
def test_a_missing_package_is_told_in_one_line(module: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[captioning\]'"):
        metrics._extra(module)


@pytest.mark.parametrize(("jar", "due"), [(None, "pycocoevalcap"), ("meteor.jar", "Java")])
def test_meteor_says_what_it_needs_in_place_of_another_score(
    jar: str | None, due: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(meteor, "_jar", lambda: jar)
    monkeypatch.setenv("PATH", "")
    told = score_corpus(["a ball.", "a dog."], [["a ball."], ["a cat."]])
    assert told["meteor"] is None
    assert told["meteor_note"].startswith("not computed: needs")
    assert due in told["meteor_note"]


@pytest.mark.skipif(meteor.what_is_missing() is not None, reason="METEOR needs Java and pycocoevalcap")
def test_meteor_of_summed_counts_is_that_of_the_corpus():
    captions, references = made_up(20)
    scores = clip_scores(captions, references)
    program = meteor._program()
    lines = [" ".join(map(str, row)) for row in scores.meteor.tolist()]
    corpus = float(program._ask(" ||| ".join(["EVAL", *lines]), len(lines) + 1)[-1])
    assert summarise(scores)["meteor"] == pytest.approx(corpus, abs=1e-9)
