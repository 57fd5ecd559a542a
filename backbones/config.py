"""The settings of a training of a backbone: strict YAML, in the scheme of train.py's."""

from typing import Annotated, Any, Literal

from pydantic import Field

from models.clip_networks import NETWORKS, published_name
from recognition.common.command_line import nearest
from recognition.training.config import Count, LoopConfig, Number, PathText, Section, Settings

Share = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class DataConfig(Section):
    videos: PathText = Field("videos", description="folder with the films; those of a list are looked for there")
    list: PathText | None = Field(None, description="CSV file with video,label,split or as a data set has it; see docs")
    split_of: PathText | None = Field(None, description="train on the training films of the index files in this folder")
    share: float = Field(1.0, gt=0, le=1, description="take so many of the films, chosen by their names")
    segment_s: float | None = Field(10, gt=0, description="cut films into pieces, each an item of an epoch; null: none")
    validation_share: Share = Field(0.1, description="of the training films' sources, where a list has no validation")
    missing_share: Share = Field(0.05, description="of a list's films that may be missing")
    store_fps: float | None = Field(None, gt=0, description="frame rate of folders with frames.db, which do not say it")
    cache: Literal["none", "memory"] = Field("none", description="memory decodes every film once and keeps its frames")
    workers: Number = Field(2, description="processes that read clips; 0 reads them between steps")


class ClipConfig(Section):
    frames: Count = 16
    fps: float | None = Field(7.5, gt=0, description="frames a second; each film gives the nearest whole step")
    stride: Count | list[Count] | None = Field(
        None, description="every so many-th frame instead; of several, one drawn"
    )
    apart_s: float | None = Field(
        None, gt=0, description="pre-training: least time from the start of one clip of a pair to that of the other"
    )
    side: Annotated[int, Field(ge=16, le=1024)] = Field(112, description="pixels")
    keep_aspect: bool = Field(False, description="false squeezes pictures first, as torchvision's preset does")


class AugmentationConfig(Section):
    preset: Literal["none", "srtg"] | None = Field(None, description="srtg: colours and distortions of Stergiou 2021")
    area: Range | None = Field([0.2, 0.766], description="of the picture in a random crop; null: see short_side")
    aspect: Range = Field([0.75, 1.3333], description="of that crop, width by height")
    short_side: Range | None = Field(
        None, description="resize to a random short side, then crop, in place of it; both null: crop what a test crops"
    )
    flip: Share = Field(0.5, description="mirror so often; 0 where left and right matter")
    jitter: Annotated[list[float], Field(min_length=4, max_length=4)] = Field(
        [0.6, 0.6, 0.6, 0.15], description="of brightness, contrast, saturation and hue"
    )
    jitter_share: Share = 0.8
    grey: Share = 0.2
    blur: Share = 0.5


class NetworkConfig(Section):
    name: str = Field("r3d_18", description="a name in models.clip_networks; srtg_NAME has temporal gates")
    width: Count | None = Field(None, description="channels of the first stage; null: 64, and 16 of r3d_mini")
    dilate_last: bool = Field(False, description="the last stage keeps its frames")
    expansion: Literal[1, 4] = Field(4, description="of bottlenecks; 1 as Stergiou 2021 built them")
    stem_pool: bool = Field(False, description="halve time and space after the stem, as Stergiou 2021")
    temporal_gates: dict[str, Any] | None = Field(None, description="settings of the gates, {} for the published ones")
    weights: PathText | None = Field(None, description="start from this file, or from DEFAULT, torchvision's")
    partial: bool = Field(False, description="load what of the weights fits, and say what does not")


class ByolConfig(Section):
    predictor: Literal["memory", "perceptron"] = "memory"
    projection: Count = 256
    hidden: Count = Field(4096, description="units of the projector, and of the perceptron")
    slots: Count = 4096
    heads: Count = 1
    scale: float = Field(16, gt=0, description="sharpness of the memory at width 256; others x sqrt(width / 256)")
    concepts: Number = Field(4096, description="of the alignment; 0: none")
    recon: Literal["cosine", "l2"] = "cosine"
    alpha: float = Field(0.01, ge=0, description="weight of the reconstruction")
    beta: float = Field(0.01, ge=0, description="weight of the alignment")
    target_momentum: Share = Field(0.996, description="at the first step; rises to 1 on a cosine")


class GroupRates(Section):
    loaded: float = Field(1.0, ge=0, description="parameters that were in the weights")
    gates: float = Field(1.0, ge=0, description="temporal gates that were in the weights")
    new: float = Field(1.0, ge=0, description="all others")


class ClassifierConfig(Section):
    train: Literal["linear", "finetune", "all"] = Field("all", description="linear: the last layer alone")
    rates_of: GroupRates = GroupRates()
    dropout: Share = 0.0
    mixing: bool = Field(False, description="mix-up or cut-mix, half of the batches each")
    label_smoothing: Share = 0.0
    norms: Literal["frozen", "adapt", "precise"] = Field("adapt", description="what becomes of running statistics")
    cached_views: Count | None = Field(
        None, description="linear: see so many clips of each film once, learn from those"
    )
    rates: list[Annotated[float, Field(gt=0)]] = Field(
        [], description="with cached_views: learn with all of these; validation chooses"
    )


class MultigridConfig(Section):
    long: bool = False
    short: bool = False
    epoch_factor: float = Field(1.5, gt=0)
    short_of: Literal["full", "long"] = "full"
    bn_clips: Count = 8
    precise_batches: Number = 20


class TestConfig(Section):
    clips: Count = 10
    crops: Literal[1, 3] = 3
    side: Annotated[int, Field(ge=16, le=1024)] | None = Field(None, description="clip.side if not given")
    batch_size: Count = Field(8, description="clips that the network sees at once")


class TrainingConfig(LoopConfig):
    learning_rate: float = Field(1.2, gt=0)
    n_epochs: Count = 100
    batch_size: Count = 64
    weight_decay: float = Field(1e-6, ge=0)
    optimizer: Literal["lars", "sgd", "adamw"] = "lars"
    momentum: Share = 0.9
    nesterov: bool = True
    schedule: Literal["constant", "cosine", "steps"] = "cosine"
    rate_steps: list[Count] = Field([], description="epochs after which the rate falls, with steps")
    rate_factor: float = Field(0.1, gt=0, lt=1)
    warmup_epochs: float = Field(10, ge=0)
    monitor_epochs: Number = Field(10, description="pre-training on a list: retrieval every so many epochs; 0: never")


class BackboneSettings(Settings):
    """What pre-training and training with labels share."""

    data: DataConfig = DataConfig()
    clip: ClipConfig = ClipConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    network: NetworkConfig = NetworkConfig()
    test: TestConfig = TestConfig()
    training: TrainingConfig = TrainingConfig()

    def conflict(self) -> str | None:
        name, _ = published_name(self.network.name)
        if name not in NETWORKS:
            return f"network.name: unknown network {self.network.name!r}; {nearest(name, NETWORKS)}"
        if self.clip.stride is None and self.clip.fps is None:
            return "clip.fps: is missing; set it, or clip.stride"
        if self.training.schedule == "steps" and not self.training.rate_steps:
            return "training.rate_steps: is missing; say after which epochs the rate falls"
        if sorted(set(self.training.rate_steps)) != self.training.rate_steps:
            return f"training.rate_steps: must ascend, found {self.training.rate_steps}"
        for key in ("area", "aspect", "short_side"):
            if (pair := getattr(self.augmentation, key)) and not 0 < pair[0] <= pair[1]:
                return f"augmentation.{key}: must be two numbers above 0 that ascend, found {pair}"
        return None


class PretrainSettings(BackboneSettings):
    byol: ByolConfig = ByolConfig()


class ClassifySettings(BackboneSettings):
    classifier: ClassifierConfig = ClassifierConfig()
    multigrid: MultigridConfig = MultigridConfig()

    def conflict(self) -> str | None:
        if fault := super().conflict():
            return fault
        if self.data.list is None:
            return "data.list: is missing; name a list of films with their labels, see python -m backbones.prepare"
        if self.classifier.train != "all" and self.network.weights is None:
            return f"network.weights: is missing; classifier.train: {self.classifier.train} starts from weights"
        if fault := self._probe_conflict():
            return fault
        if (self.multigrid.long or self.multigrid.short) and self.training.schedule != "steps":
            return "training.schedule: multigrid follows the steps of the rate; set it to steps"
        return None

    def _probe_conflict(self) -> str | None:
        """What does not go with cached views, of which only features are kept, and what needs them."""
        settings = self.classifier
        if settings.cached_views is None:
            return "classifier.rates: learn from cached views; set classifier.cached_views" if settings.rates else None
        if settings.train != "linear":
            return f"classifier.cached_views: is for classifier.train: linear, not {settings.train}; leave it out"
        for key in ("mixing", "dropout", "label_smoothing"):
            if getattr(settings, key):
                return f"classifier.{key}: is not for cached views; leave it, or classifier.cached_views, out"
        if self.multigrid.long or self.multigrid.short:
            return "multigrid: is not for cached views; leave it, or classifier.cached_views, out"
        return None
