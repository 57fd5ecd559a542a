"""Captions with a memory of the film: writing them, training on them, and the search in the store.

Shapes: B films, C clips, N frames a clip, D features.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Row, precision, take_turns
from captioning.captioner import Captioner
from captioning.config import CaptionSettings, GenerationConfig
from captioning.decoding import write_captions_of
from captioning.films import draw_film
from captioning.language import load_language, small_language, tokenise
from models.external_memory import ExternalMemory

NUM_FILMS, NUM_CLIPS, NUM_FRAMES, NUM_FEATURES = 16, 8, 3, 512  # the demo's
# Films of two minutes as in ActivityNet, 5 frames a second, 20 tokens a frame; queries of one frame, as wide as GPT-2's
FILM_TOKENS, FRAME_TOKENS, HEADS, HEAD_WIDTH, NUM_NEIGHBOURS = 120 * 5 * 20, 20, 8, 96, 32
SLACK = 1.3  # what a memory may cost of a step without one


def captions(device: str) -> Iterator[Row]:
    """Captions of whole films by all at once, with a memory and without, against one after the other."""
    features, has_clip = films(device)
    for name in ("knn_memory", "none"):
        model, settings = captioner(device, name), settings_of(name).generation

        def at_once(model: Captioner = model, generation: GenerationConfig = settings) -> None:
            model.generate(features, has_clip, generation)

        def one_by_one(model: Captioner = model, generation: GenerationConfig = settings) -> None:
            for film in features:
                for clip in range(1, NUM_CLIPS + 1):  # after those before it, which are read again
                    prefix = model.prefixes(film[None, :clip], has_clip[:1, :clip])[:, -1]
                    write_captions_of(prefix, model.language, generation, [0])

        model.eval()
        with torch.no_grad():
            ours, plain = take_turns([at_once, one_by_one])
        num = NUM_FILMS * NUM_CLIPS
        note = f"{num / ours:.0f} captions/s, {num / plain:.0f} one by one"
        yield Row(
            f"captions of {NUM_FILMS} films, memory {name}",
            "clip by clip, one caption at a time",
            ours,
            plain,
            3,
            note=note,
        )


def caption_step(device: str) -> Iterator[Row]:
    """A training step of a captioner with a memory against one of a captioner without; both have the demo's sizes."""
    with_memory, without = take_turns([training_step(device, name) for name in ("knn_memory", "none")], repeats=9)
    note = f"{with_memory:.3f} s a step, {without:.3f} s without: {with_memory / without:.2f} times"
    yield Row(
        "a training step of captions with knn_memory", "one without memory", with_memory, without, 1 / SLACK, note=note
    )


def knn_search(device: str) -> Iterator[Row]:
    """The search of a frame's tokens in the store of a whole film against a matrix product and top-k of all of it."""
    for num_films in (1, NUM_FILMS):
        draw = torch.Generator(device).manual_seed(0)
        shape = num_films, 1, FILM_TOKENS, HEAD_WIDTH
        keys, values = (torch.randn(shape, generator=draw, device=device) for _ in range(2))
        q = torch.randn(num_films, HEADS, FRAME_TOKENS, HEAD_WIDTH, generator=draw, device=device)
        memory = ExternalMemory(num_films, FILM_TOKENS, HEAD_WIDTH, device=device)
        memory.add(keys, values)

        def product(q: Tensor = q, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor, Tensor]:
            best = (q @ keys.transpose(2, 3)).topk(NUM_NEIGHBOURS, dim=3).indices
            rows = torch.arange(len(q), device=q.device)[:, None, None, None]
            return keys[rows, 0, best], values[rows, 0, best]

        def search(q: Tensor = q, memory: ExternalMemory = memory) -> None:
            memory.search(q, NUM_NEIGHBOURS)

        ours, plain = take_turns([search, product], repeats=9)
        note = f"{num_films} films, {FILM_TOKENS:,} keys each, {HEADS} x {FRAME_TOKENS} queries; {1000 * ours:.0f} ms"
        yield Row("the kNN store's search", "a matrix product, top-k and gather", ours, plain, 0.9, note=note)


def settings_of(memory: str) -> CaptionSettings:
    """The demo's, with a memory or without."""
    args = {"n_heads": 4, "kv_heads": 4, "k": 32} if memory == "knn_memory" else {}
    return CaptionSettings.model_validate(
        {
            "data": {"frames_per_clip": NUM_FRAMES},
            "memory": {"model": memory, "width": 64, "args": args},
            "mapper": {"kind": "mlp"},
            "language_model": {"train": "both"},
            "generation": {"num_beams": 1, "max_new_tokens": 30},
        }
    )


def captioner(device: str, memory: str) -> Captioner:
    """A captioner that has learned nothing, of a small language model of the made-up films' words."""
    with tempfile.TemporaryDirectory() as folder:
        language = load_language(str(small_language(texts(), Path(folder) / "language")))
    torch.manual_seed(0)
    mean, deviation = torch.zeros(NUM_FEATURES), torch.ones(NUM_FEATURES)
    return Captioner(settings_of(memory), NUM_FEATURES, language, mean, deviation).to(device)


def films(device: str) -> tuple[Tensor, Tensor]:
    """Features (B, C, N, D) and which clips are there, all of them."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(NUM_FILMS, NUM_CLIPS, NUM_FRAMES, NUM_FEATURES, generator=draw)
    return features.to(device), torch.ones(NUM_FILMS, NUM_CLIPS, dtype=torch.bool, device=device)


def texts() -> list[str]:
    """A caption for each clip of all films."""
    return [slots.caption for film in range(NUM_FILMS) for slots in draw_film(film, 0)[:NUM_CLIPS]]


def training_step(device: str, memory: str) -> Callable[[], None]:
    """A function that does one: loss, gradients and optimiser."""
    model, (features, has_clip) = captioner(device, memory).train(), films(device)
    ids, lengths = (x.to(device) for x in tokenise(texts(), model.language))
    of = has_clip.nonzero()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)  # as in training

    def step() -> None:
        with precision(device):
            total, num_tokens = model(features, has_clip, ids, lengths, of)
        optimizer.zero_grad()
        (total / num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
