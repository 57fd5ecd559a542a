"""The captioner: frames, a memory of the film so far, a mapper, a prefix, and a language model that goes on from it.

    x = embed(standardise(f))                    y = memory(x), clip after clip
    prefix = mapper([x, y])                      caption: what the language model says after it

Shapes: B films, C clips, N frames a clip, D features, M width of the memory, P vectors of W numbers in a prefix,
n captions of up to L tokens, K neighbours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning.config import CaptionSettings, GenerationConfig
from captioning.decoding import seeds_of, write_captions_of
from captioning.language import Language
from captioning.mapper import MlpMapper, TransformerMapper
from captioning.memorizing import MemorizingMapper
from captioning.remembering import ClipMemory, Found
from recognition.common.command_line import InputError


class Films(NamedTuple):
    """Features of films, and which of their clips are there: those that are not stand at the end."""

    features: Tensor  # (B, C, N, D)
    has_clip: Tensor  # (B, C) bool


class Captioner(nn.Module):
    """Says what happens in each clip of a film, with a memory of the film's earlier clips.

    The memory is empty at the start of a film and, with scope clip, at the start of each clip. The mapper reads frames
    and what the memory says of them, so that a model without memory is contained in it. The memorizing mapper has a
    memory of its own and reads the features themselves.

    A language model that does not learn is no part of parameters() or state_dict(): it is read from its folder again,
    and a checkpoint made with another one is refused.

    Args:
        settings: all of them; data, memory, mapper and language_model decide on the model.
        num_features: D.
        language: whose model is frozen here, or trained along.
        mean, deviation: (D,) each, of features of unit length; None leaves features as they are.

    Raises InputError for settings that do not go together, or a memory that would see later clips.
    """

    feature_mean: Tensor | None
    feature_deviation: Tensor | None

    def __init__(
        self,
        settings: CaptionSettings,
        num_features: int,
        language: Language,
        mean: Tensor | None = None,
        deviation: Tensor | None = None,
    ):
        super().__init__()
        data, memory, mapper = settings.data, settings.memory, settings.mapper
        self.language, self.scope = language, memory.scope
        self.num_frames = data.frames_per_clip if data.frames == "all" else 1
        self.prefix_length, self.width = mapper.prefix_length, language.width
        if language.longest is not None and self.prefix_length + settings.generation.max_new_tokens > language.longest:
            raise InputError(
                f"generation.max_new_tokens: with mapper.prefix_length it is more than the {language.longest} tokens"
                " that the language model can read; lower one of them"
            )
        self.register_buffer("feature_mean", mean)
        self.register_buffer("feature_deviation", None if deviation is None else deviation.clamp(min=1e-6))
        self.embed = self.memory = None
        if mapper.kind != "memorizing":
            self.embed = nn.Linear(num_features, memory.width)
            if memory.model != "none":
                self.memory = ClipMemory(memory, self.num_frames)
        elif memory.model != "none":
            raise InputError("mapper.kind: memorizing has a memory of its own; set memory.model to none, or take mlp")
        self.mapper = self._build_mapper(settings, num_features)
        self.is_frozen = settings.language_model.train == "mapper"
        language.model.requires_grad_(not self.is_frozen).train(not self.is_frozen)
        if not self.is_frozen:
            self.language_model = language.model

    def forward(
        self, features: Tensor, has_clip: Tensor, ids: Tensor, lengths: Tensor, of: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of -log p of all tokens of captions, and how many there are.

        Args:
            features, has_clip: of films, (B, C, N, D) and (B, C) bool, see `Films`.
            ids, lengths: (n, L) int64 and (n,), see `tokenise`.
            of: (n, 2), each caption's film and clip in the batch.
        """
        prefix = self.prefixes(features, has_clip)[of[:, 0], of[:, 1]]  # (n, P, W)
        words = self.language.model.get_input_embeddings()(ids)
        is_word = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        logits = self.language.logits(
            torch.cat([prefix.to(words), words], 1),
            torch.cat([is_word.new_ones(prefix.shape[:2]), is_word], 1),
            last=ids.shape[1] + 1,
        )[:, :-1]
        labels = ids.masked_fill(~is_word, -100)
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        return loss, is_word.sum()

    def prefixes(self, features: Tensor, has_clip: Tensor, memory_from: Films | None = None) -> Tensor:
        """The prefix of each clip, (B, C, P, W); zeros for clips that are not there.

        With `memory_from`, B films of at least one clip each, nothing but the memory is another film's: clip c is read
        after the first c clips of that film, which is begun again where it ends before, and not after those of its own.
        """
        features = features.masked_fill(~has_clip[..., None, None], 0)  # whatever stands there
        if memory_from is None or self.scope == "clip":
            return self._prefixes(features, has_clip)
        others = self._as_long(memory_from, features.shape[1])
        by_clip = []
        for clip in range(features.shape[1]):
            film = torch.cat([others[:, :clip], features[:, clip : clip + 1]], 1)
            is_there = has_clip[:, clip, None].expand(-1, clip + 1)
            by_clip.append(self._prefixes(film, is_there, only_last=True))
        return torch.stack(by_clip, 1)

    @torch.no_grad()
    def retrieved(self, features: Tensor, has_clip: Tensor) -> Found | None:
        """What each clip found in a memory that looks things up, (B, C, Q, K) for its Q queries; nothing for clips that
        are not there.

        Queries are the clip's frames, or the constants of the memorizing mapper. The last layer that looks things up
        tells. None if there is no such layer, or nothing to find beyond the clip.
        """
        features = features.masked_fill(~has_clip[..., None, None], 0)
        if self.scope == "clip":
            return None
        was_training = self.training
        self.eval()
        try:
            if isinstance(self.mapper, MemorizingMapper):
                self._prefixes(features, has_clip)
                found = self.mapper.retrieved
            elif self.memory is None or self.embed is None:
                return None
            else:
                found = self.memory.retrieved(self.embed(self._standardised(features)))
        finally:
            self.train(was_training)
        if found is None:
            return None
        is_gone = ~has_clip[..., None, None]
        return Found(found.frames.masked_fill(is_gone, -1), found.weights.masked_fill(is_gone, 0))

    @torch.no_grad()
    def generate(
        self, features: Tensor, has_clip: Tensor, generation: GenerationConfig, memory_from: Films | None = None
    ) -> list[list[str]]:
        """The captions of each film's clips, in order, without those that are not there; see `prefixes`."""
        was_training = self.training
        self.eval()
        try:
            prefix = self.prefixes(features, has_clip, memory_from)[has_clip].to(self.language.model.dtype)
            num_clips = has_clip.sum(1).tolist()
            seeds = seeds_of(features, num_clips, generation.seed) if generation.top_p is not None else []
            captions = iter(write_captions_of(prefix, self.language, generation, seeds))
        finally:
            self.train(was_training)
        return [[next(captions) for _ in range(num)] for num in num_clips]

    @property
    def longest_caption(self) -> int | None:
        """How many tokens a caption may have; None if that is not known."""
        return None if self.language.longest is None else self.language.longest - self.prefix_length

    def train(self, mode: bool = True) -> "Captioner":
        super().train(mode)
        if self.is_frozen:
            self.language.model.eval()
        return self

    def get_extra_state(self) -> Tensor:
        """The digest of the language model, which goes with the weights."""
        return torch.tensor(list(bytes.fromhex(self.language.digest)), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Raises InputError if these weights were learned with another language model."""
        if bytes(state.tolist()).hex() != self.language.digest:
            raise InputError(
                "language_model.path: these weights were learned with another language model; give that one, or start"
                " a new run"
            )

    def _apply(self, fn: Callable[[Any], Any], *args: Any, **options: Any) -> "Captioner":
        """Take a language model along, to a device, that is no part of this module."""
        if self.is_frozen:
            self.language.model._apply(fn)
        return super()._apply(fn, *args, **options)

    def _build_mapper(self, settings: CaptionSettings, num_features: int) -> nn.Module:
        chosen = settings.mapper
        num_read = settings.memory.width * (1 if self.memory is None else 2)
        sizes = chosen.clip_length, chosen.n_layers, chosen.n_heads
        try:
            if chosen.kind == "mlp":
                return MlpMapper(num_read, self.width, chosen.prefix_length, self.num_frames, normed=True)
            if chosen.kind == "transformer":
                return TransformerMapper(num_read, self.width, chosen.prefix_length, *sizes, self.num_frames)
            return MemorizingMapper(num_features, self.width, chosen.prefix_length, *sizes)
        except ValueError as error:
            raise InputError(f"mapper: {error}") from None

    def _standardised(self, features: Tensor) -> Tensor:
        features = features.to(next(self.mapper.parameters()).dtype)
        if self.feature_mean is None or self.feature_deviation is None:
            return features
        return (F.normalize(features, dim=3) - self.feature_mean) / self.feature_deviation

    def _as_long(self, films: Films, num_clips: int) -> Tensor:
        """So many clips of each film, begun again where it ends."""
        clip = torch.arange(num_clips, device=films.features.device) % films.has_clip.sum(1, keepdim=True)  # (B, C)
        return films.features[torch.arange(len(clip), device=clip.device)[:, None], clip]

    def _prefixes(self, features: Tensor, has_clip: Tensor, only_last: bool = False) -> Tensor:
        """`prefixes`, (B, C, P, W), or those of the last clips, (B, P, W)."""
        features = self._standardised(features)
        if self.embed is None:
            return self._memorized(features, has_clip, only_last)
        z = x = self.embed(features)
        if self.memory is not None:
            z = torch.cat([x, self.memory(x, self.scope)], 3)  # (B, C, N, 2 M)
        if only_last:
            z, has_clip = z[:, -1], has_clip[:, -1]
        mapped = self.mapper(z[has_clip])
        prefix = mapped.new_zeros(*has_clip.shape, *mapped.shape[1:])
        return prefix.index_put(tuple(has_clip.nonzero().T), mapped)

    def _memorized(self, features: Tensor, has_clip: Tensor, only_last: bool) -> Tensor:
        if self.scope == "film":
            prefix = self.mapper(features, has_clip)
        else:
            alone = self.mapper(features.flatten(0, 1)[:, None], has_clip.flatten()[:, None])
            prefix = alone.view(*has_clip.shape, *alone.shape[2:])
        return prefix[:, -1] if only_last else prefix
