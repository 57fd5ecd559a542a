"""The settings of a captioner: strict YAML, in the scheme of train.py's."""

from typing import Annotated, Any, Literal

from pydantic import Field

from models import CONFIGS, PUBLISHED_NAMES
from recognition.common.command_line import nearest
from recognition.training.config import Count, LoopConfig, Number, PathText, Section, Settings

MADE = "made-of-captions"  # in place of a language model's name: a small one of the words of the training captions
Share = Annotated[float, Field(ge=0, le=1)]


class DataConfig(Section):
    captions: PathText = Field("captions.csv", description="film, clip, start_s, end_s, caption, split; a row a clip")
    video_path: PathText = Field("video-features", description="folder with the feature files of the films")
    frames_per_clip: Count = Field(8, description="evenly over a clip, its first and last frame among them")
    frames: Literal["all", "first", "middle", "last"] = Field("all", description="or one frame alone, for comparison")
    clips: Literal["all", "first"] = Field("all", description="of a film; the published subsets have its first one")
    jitter: bool = Field(False, description="move the frames of training clips a little, at random")
    standardise: bool = Field(True, description="features to mean 0 and deviation 1 over the training films")


class MemoryConfig(Section):
    model: str = Field("knn_memory", description="a family in models.MODELS, or none")
    scope: Literal["film", "clip"] = Field("film", description="clip forgets after each clip, as published")
    width: Count = Field(256, description="of what mapper and memory read")
    args: dict[str, Any] = Field(default_factory=dict, description="the family's own settings, see its Config class")


class MapperConfig(Section):
    kind: Literal["mlp", "transformer", "memorizing"] = "transformer"
    prefix_length: Count = Field(10, description="vectors before a caption")
    clip_length: Count = Field(10, description="transformer: tokens a frame")
    n_layers: Count = 8
    n_heads: Count = 8


class LanguageConfig(Section):
    path: PathText = Field("gpt2", description=f"a name or a folder of transformers; {MADE} makes a small one")
    train: Literal["mapper", "both"] = Field("mapper", description="mapper: the language model stays as it is")


class GenerationConfig(Section):
    num_beams: Count = 5
    top_p: Share | None = Field(None, description="draw words from so much probability, in place of beams")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: Count = 67
    stop: str = Field(".", description="the token that ends a caption")
    seed: Number = 0


class TrainingConfig(LoopConfig):
    learning_rate: float = Field(2e-5, gt=0)
    n_epochs: Count = 10
    batch_size: Count = Field(16, description="films a step, shared among all devices")
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float | None = Field(1.0, gt=0, description="largest norm of all gradients together")
    warmup: Share = Field(0.05, description="of all steps, over which the rate rises")
    schedule: Literal["constant", "cosine"] = "cosine"
    best_by: Literal["cider_d", "loss"] = Field("cider_d", description="of greedy captions of the validation films")
    num_workers: Number = 2


class CaptionSettings(Settings):
    """All that decides a captioner."""

    data: DataConfig = DataConfig()
    memory: MemoryConfig = MemoryConfig()
    mapper: MapperConfig = MapperConfig()
    language_model: LanguageConfig = LanguageConfig()
    generation: GenerationConfig = GenerationConfig()
    training: TrainingConfig = TrainingConfig()

    def conflict(self) -> str | None:
        family = PUBLISHED_NAMES.get(self.memory.model, self.memory.model)
        if family != "none" and family not in CONFIGS:
            return f"memory.model: unknown model {self.memory.model!r}; {nearest(family, ['none', *CONFIGS])}"
        if self.language_model.path == MADE and self.language_model.train != "both":
            return f"language_model.train: {MADE} has learned nothing yet; set it to both"
        return None
