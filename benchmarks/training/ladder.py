"""Fast training, trick by trick: time, memory and accuracy of ResNet-9's ladder and of the recipes beside it.

Page, "How to Train Your ResNet" (2018-2019); Jordan, airbench (arXiv 2404.00498). Five comparisons on CIFAR-10-JPEG:

    python -m benchmarks.training.ladder tricks     each rung of the ladder keeps the ones below it
    python -m benchmarks.training.ladder rates      triangular for batch 768, for batch 512, halved, constant
    python -m benchmarks.training.ladder depths     VGG-11 to VGG-19, as wide as ResNet-9
    python -m benchmarks.training.ladder recipes    ResNet-9, ResNet-56 and airbench's networks by their own recipes
    python -m benchmarks.training.ladder equal      ResNet-56, and ResNet-9 in fewer epochs: which are as accurate?

Rungs of the source have fewer epochs where a trick bought some; here all have the same, so that the accuracy shows what
a trick is worth. On a GPU: ``--device cuda --width 64 --epochs 24 --batch 512``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from pydantic import JsonValue

from benchmarks.training.experiment import EVIDENCE, OPEN, Arm, Experiment, Figures, arguments, run_experiment
from benchmarks.training.tasks import Setting, add_setting, read_setting, train_and_judge
from training.augment.config import AugmentConfig, Flip
from training.evaluation import Tta
from training.loop_config import LoopConfig, Precision
from training.lr import Constant, MultiStep, StepDecay, triangular
from training.members import MemberConfig
from training.optim import OptimConfig
from training.tricks import airbench_muon

_EPOCHS_OF_SOURCE = 24


@dataclass(frozen=True, kw_only=True)
class _Rung:
    name: str
    arguments: Mapping[str, JsonValue]
    loop: LoopConfig


def tricks(width: int, epochs: int, batch_size: int, device: str) -> list[_Rung]:
    """Give the ladder: each rung adds one trick to those before it."""
    plain = LoopConfig(
        epochs=epochs,
        batch_size=batch_size,
        # The source's sum over a batch of 512 at 0.4, as the mean's rate; smaller batches get less, in proportion.
        lr=Constant(lr=0.1 * batch_size / 512),
        augment=AugmentConfig(pad_px=4, flip=Flip.RANDOM),
    )
    rungs: list[_Rung] = [_Rung(name="constant rate, crop, flip", arguments={"width": width}, loop=plain)]

    def add(name: str, arguments: Mapping[str, JsonValue] | None = None, **changes: object) -> None:
        below = rungs[-1]
        loop = replace(below.loop, **changes)  # type: ignore[arg-type]
        rungs.append(_Rung(name=f"+ {name}", arguments={**below.arguments, **(arguments or {})}, loop=loop))

    scale = batch_size / 512
    is_cuda = device.startswith("cuda")
    add("triangular rate", lr=triangular(0.4 * scale))
    add("Cutout 8", augment=replace(plain.augment, cutout_px=8))
    add("channels last", channels_last=True)
    if is_cuda:
        add("mixed precision", precision=Precision.BF16)
    add("max-pool before norm", {"pool_before_norm": True})
    add("label smoothing 0.2", label_smoothing=0.2)
    add("CELU 0.075", {"celu_alpha": 0.075})
    add("ghost norm 32", {"ghost_batch_size": 32}, lr=triangular(0.6 * scale))
    frozen = {"frozen_scales": True, "celu_alpha": 0.3, "logit_scale": 1 / 16}
    add("frozen norm scales", frozen, optim=OptimConfig(norm_bias_lr_factor=64, decay_all=True))
    add("whitened input, rate 1.0", {"whitening": True}, lr=triangular(1.0 * scale))
    add("average of the weights", ema_decay=0.99, ema_every=5)
    add("mirror at test", tta=Tta.FLIP)
    if is_cuda:
        add("torch.compile", compile=True)
    return rungs


def rates(width: int, epochs: int, batch_size: int) -> list[_Rung]:
    """Give the source's four settings of the learning rate, two of them with a batch half as large again."""
    loop = tricks(width, epochs, batch_size, "cpu")[2].loop
    scale = batch_size / 512
    settings = {
        f"triangular, batch {batch_size * 3 // 2}": replace(loop, batch_size=batch_size * 3 // 2),
        f"triangular, batch {batch_size}": loop,
        # Thirty epochs are a fifth of the 150 that the source's slow schedule was made for.
        "halved every fifth": replace(loop, lr=StepDecay(peak_lr=0.1 * scale, factor=0.5, every_share=0.2)),
        "constant": replace(loop, lr=Constant(lr=0.1 * scale)),
    }
    return [_Rung(name=name, arguments={"width": width}, loop=settings[name]) for name in settings]


def _tricks_experiment(setting: Setting, width: int) -> Experiment:
    loop = setting.model.loop
    return _of_rungs(setting, "tricks", tricks(width, loop.epochs, loop.batch_size, setting.device))


def _rates_experiment(setting: Setting, width: int) -> Experiment:
    loop = setting.model.loop
    return _of_rungs(setting, "rates", rates(width, loop.epochs, loop.batch_size))


def _depths_experiment(setting: Setting, width: int) -> Experiment:
    names = ("vgg11", "vgg13", "vgg16", "vgg19")
    loop = replace(setting.model.loop, lr=triangular(0.1))
    return _of_models(setting, "depths", {name: _member(name, loop, {"width": width}) for name in names})


def _recipes_experiment(setting: Setting, width: int) -> Experiment:
    """Set ResNet-9 beside ResNet-56, which is trained as its paper says, and airbench's networks and optimiser."""
    loop = setting.model.loop
    airbench = airbench_loop(epochs=max(3, loop.epochs // 3), device=setting.device)
    models = {
        "resnet9, all tricks": _fast(setting, width, loop.epochs),
        "resnet56": _slow(loop),
        "airbench94, Muon": _member("airbench94_muon", airbench),
    }
    return _of_models(setting, "recipes", models)


def _equal_experiment(setting: Setting, width: int) -> Experiment:
    """Train ResNet-9 for as many epochs as ResNet-56, then for a half and a quarter of them, to find where they tie."""
    loop = setting.model.loop
    models = {f"resnet56, epochs {loop.epochs}": _slow(loop)}
    for epochs in sorted({max(1, loop.epochs // part) for part in (1, 2, 4)}):
        models[f"resnet9, all tricks, epochs {epochs}"] = _fast(setting, width, epochs)
    return _of_models(setting, "equal", models)


def _fast(setting: Setting, width: int, epochs: int) -> MemberConfig:
    ladder = tricks(width, epochs, setting.model.loop.batch_size, setting.device)[-1]
    return _member("resnet9", ladder.loop, ladder.arguments)


def _slow(loop: LoopConfig) -> MemberConfig:
    """Give ResNet-56 by its paper's recipe (He et al. 2016, section 4.2), in as many epochs as the setting's."""
    recipe = replace(loop, lr=MultiStep(), optim=OptimConfig(weight_decay=1e-4), batch_size=128, label_smoothing=0.0)
    return _member("resnet56", recipe)


def airbench_loop(*, epochs: int, device: str) -> LoopConfig:
    """Give the way of airbench94_muon: Muon on filters, alternating flip, two-pixel crops, six views at test."""
    is_cuda = device.startswith("cuda")
    batch_size = 2000 if is_cuda else 250
    optim, lr = airbench_muon(batch_size=batch_size, epochs=epochs)
    return LoopConfig(
        epochs=epochs,
        batch_size=batch_size,
        optim=optim,
        lr=lr,
        augment=AugmentConfig(pad_px=2, flip=Flip.ALTERNATING),
        label_smoothing=0.2,
        tta=Tta.TRANSLATE,
        precision=Precision.BF16 if is_cuda else Precision.FP32,
        channels_last=True,
    )


def _of_rungs(setting: Setting, kind: str, rungs: list[_Rung]) -> Experiment:
    return _of_models(setting, kind, {rung.name: _member("resnet9", rung.loop, rung.arguments) for rung in rungs})


def _member(architecture: str, loop: LoopConfig, arguments: Mapping[str, JsonValue] | None = None) -> MemberConfig:
    return MemberConfig(name=architecture, architecture=architecture, arguments=arguments or {}, loop=loop)


def _of_models(setting: Setting, kind: str, models: Mapping[str, MemberConfig]) -> Experiment:
    return Experiment(
        name=f"ladder_{kind}",
        title=f"Fast training on {setting.name}: {kind}",
        arms=[Arm(name=name, run=partial(_run, setting, model)) for name, model in models.items()],
        baseline=next(iter(models)),
        ratios=("process s",),
        settings=setting.describe(),
        standing=EVIDENCE if setting.train_images is None and setting.device != "cpu" else OPEN,
    )


def _run(setting: Setting, model: MemberConfig, seed: int) -> Figures:
    task = setting.task(seed)
    member, figures = train_and_judge(setting, task, replace(model.loop, seed=seed), model=model)
    if setting.device == "cpu":
        # There the peak is the process's, all arms before this one included; benchmarks.training.speed has it apart.
        return figures
    return {**figures, "peak MiB": member.result.peak_memory_bytes / 2**20}


KINDS = {
    "tricks": _tricks_experiment,
    "rates": _rates_experiment,
    "depths": _depths_experiment,
    "recipes": _recipes_experiment,
    "equal": _equal_experiment,
}


def main() -> None:
    """Run one comparison as a command."""
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("kind", choices=tuple(KINDS))
    add_setting(parser)
    parser.set_defaults(task="cifar10-jpeg", width=16)
    options = parser.parse_args()
    experiment = KINDS[options.kind](read_setting(options), options.width)
    print(run_experiment(experiment, range(options.seeds), options.out))


if __name__ == "__main__":
    main()
