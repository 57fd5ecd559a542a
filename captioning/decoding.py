"""From prefixes to captions: transformers' own search, and words drawn at random so that each caption is by itself.

Shapes: n captions, P vectors of W numbers in a prefix, V words.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from captioning.config import GenerationConfig
from captioning.language import Language, stop_token, text_of, transformers_package


def write_captions_of(
    prefixes: Tensor, language: Language, generation: GenerationConfig, seeds: Sequence[int]
) -> list[str]:
    """Captions of prefixes (n, P, W), all at once; each ends with the first stop.

    Beams are ranked by the mean log-probability of their words. With `top_p` words are drawn from the smallest set that
    has so much probability; what is drawn for a caption depends on its own one of `seeds` alone.
    """
    if not len(prefixes):
        return []
    transformers = transformers_package()
    stop_id = stop_token(language.tokenizer, generation.stop)
    settings = transformers.GenerationConfig(
        num_beams=1 if generation.top_p is not None else generation.num_beams,
        max_new_tokens=generation.max_new_tokens,
        eos_token_id=stop_id,
        pad_token_id=language.pad_id,
        do_sample=False,
        length_penalty=1.0,
        use_cache=True,
    )
    drawn = [] if generation.top_p is None else [Draw(generation.top_p, generation.temperature, seeds)]
    written = language.model.generate(
        inputs_embeds=prefixes,
        attention_mask=torch.ones(prefixes.shape[:2], dtype=torch.int64, device=prefixes.device),
        generation_config=settings,
        logits_processor=transformers.LogitsProcessorList(drawn),
    )
    return [text_of(tokens, language, stop_id) for tokens in written.tolist()]


class Draw:
    """Makes the greatest of the scores one that is drawn from them: log p + Gumbel noise (Gumbel 1954), after the words
    beyond a probability of `top_p` were left out (Holtzman et al. 2020, arXiv:1904.09751).

    Drawing so, and not from one generator for all rows, a caption does not depend on what is written beside it. Called
    with tokens (n, any number), which do not matter, and scores (n, V).
    """

    def __init__(self, top_p: float, temperature: float, seeds: Sequence[int]):
        self.top_p, self.temperature = top_p, temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_p = (scores.float() / self.temperature).log_softmax(1)
        sorted_log_p, order = log_p.sort(dim=1, descending=True, stable=True)
        before = sorted_log_p.exp().cumsum(1) - sorted_log_p.exp()  # the probability of all that is more probable
        before[:, 0] = -1  # the first is never left out
        log_p = log_p.masked_fill((before >= self.top_p).gather(1, order.argsort(1)), -torch.inf)
        uniform = [torch.rand(log_p.shape[1], generator=one, dtype=torch.float64) for one in self.generators]
        noise = -torch.log(-torch.log(torch.stack(uniform)))
        return log_p + noise.to(log_p)


def seeds_of(features: Tensor, num_clips: Sequence[int], seed: int) -> list[int]:
    """A seed for each clip of films, features (B, C, N, D), of which the first `num_clips` are there: by `seed`, what
    the film shows and the number of the clip, and by no other film."""
    seeds = []
    for film, num in zip(features, num_clips, strict=True):
        shown = film[:num].float().cpu().contiguous().numpy().tobytes()
        for clip in range(num):
            digest = hashlib.sha256(shown + f" {seed} {clip}".encode()).digest()
            seeds.append(int.from_bytes(digest[:8], "big") >> 1)
    return seeds
