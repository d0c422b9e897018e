"""The options of `python -m dgtoy dit`, step by step, and how a command line is read."""

import dataclasses

from .manifest import check_out


def _fields(parser, config, **words):
    """An option for every field of a configuration; `words` says what each is, and its default where that
    depends on the network. One left out is None."""
    for field in dataclasses.fields(config):
        option, default = f"--{field.name.replace('_', '-')}", field.default
        shown = " ".join(map(str, default)) or "none" if isinstance(default, tuple) else default
        told = dict(help=words[field.name])
        if "default: " not in told["help"]:
            told["help"] += f"; default: {shown}"
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true", default=None, help=words[field.name])
        elif isinstance(default, tuple):
            parser.add_argument(option, type=type(default[0]) if default else int, nargs="+", **told)
        else:
            parser.add_argument(option, type=type(default), **told)


def given(args, config):
    """The fields of a configuration that the options say, by name."""
    held = {f.name: getattr(args, f.name) for f in dataclasses.fields(config)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in held.items() if v is not None}


def commands(parser, known, metavar):
    """A command of a parser for each of `known`, {name: (add_options, run)}; run's docstring describes it.
    -> parser"""
    found = parser.add_subparsers(metavar=metavar, required=True)
    for name, (add_options, run) in known.items():
        command = found.add_parser(name, help=run.__doc__, description=run.__doc__)
        add_options(command)
        command.set_defaults(run=run, refuse=command.error)
    return parser


def call(parser, argv, into_files):
    """Run the command that these words ask for, once its --out can be written. into_files: the `run`s whose
    --out is a file, not a folder."""
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # said by the command, whose usage lists what it takes
        args.refuse(f"unrecognized arguments: {' '.join(unknown)}")
    if out := getattr(args, "out", None):
        check_out(out, file=args.run in into_files)
    args.run(args)


def device(parser):
    """The one that commands of the course have as well."""
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")


def _common(parser):
    device(parser)
    parser.add_argument(
        "--heads", type=int, help="attention heads, for a network of no named size; default: by its size"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars, which a terminal alone shows")


def _vae(parser):
    parser.add_argument(
        "--vae",
        help="a name or folder of a diffusers autoencoder, `pixels` for none, or `unshuffle` for grey images;"
        " default: what the network works on, pixels or the latents of sd-vae-ft-ema",
    )


def _models(parser):
    parser.add_argument("finetuned", help="the folder or a file that finetune wrote, or any DiT checkpoint")
    parser.add_argument(
        "--pretrained",
        help="the checkpoint that guides; default: that which was fine-tuned, if finetune wrote the file",
    )
    _common(parser)


def run(parser):
    """Those of `dit run`."""
    parser.add_argument("images", help="a folder with one folder of images per class")
    parser.add_argument("--out", help="the folder to write; default: the name of the images, with -run")
    parser.add_argument(
        "--pretrained",
        default="photos64",
        help="the network to fine-tune: a checkpoint, an earlier fine-tune, or one that ships with dgtoy;"
        " default: photos64",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        help="share of each class that is kept out of fine-tuning, for calibrate; default: 0.1",
    )
    parser.add_argument("--w", type=float, nargs="+", default=[1.5, 3.0], help="weights; default: 1.5 3")
    parser.add_argument("--count", type=int, default=12, help="pictures per method; default: 12")
    parser.add_argument("--steps", type=int, help="of fine-tuning; default: 300 on a CPU, 1500 on a GPU")
    _common(parser)


def prepare(parser):
    """Those of `dit prepare`."""
    from .targets import TARGETS

    parser.add_argument(
        "images",
        help="a folder with one folder of images per class, or a Hugging Face dataset by name with --hub",
    )
    parser.add_argument("--out", required=True, help="the folder of latents to write")
    parser.add_argument(
        "--target",
        choices=TARGETS,
        help="a target of the paper: checks the number of classes, says where to get it; default: none",
    )
    parser.add_argument(
        "--hub", action="store_true", help="images is a dataset's name, or a folder saved with save_to_disk"
    )
    parser.add_argument("--split", help="split of a dataset with --hub; default: train")
    parser.add_argument(
        "--pretrained", help="the network that will be fine-tuned, which says --size and --vae; default: none"
    )
    parser.add_argument(
        "--size", type=int, help="side of the images in pixels; default: that of --pretrained, or 256"
    )
    _vae(parser)
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        help="share of each class that finetune leaves out and calibrate uses, as 0.2; default: 0",
    )
    parser.add_argument(
        "--no-mirror",
        action="store_true",
        help="for images that mean something else in a mirror, as letters do",
    )
    _common(parser)


def finetune(parser):
    """Those of `dit finetune`."""
    from .finetune import Config

    parser.add_argument("latents", help="what prepare wrote")
    parser.add_argument(
        "--pretrained",
        help="a DiT checkpoint, .pt or .safetensors, the folder of an earlier fine-tune, or the name of one"
        " that ships with dgtoy; default: that of prepare",
    )
    parser.add_argument("--out", required=True, help="the folder of checkpoints to write")
    parser.add_argument(
        "--every", type=int, default=1000, help="steps between states to go on from; default: 1000"
    )
    _fields(
        parser,
        Config,
        steps="training steps",
        batch="images per step, over all processes",
        lr="learning rate of AdamW",
        dropout="share of labels dropped, which CFG's null branch learns from",
        ema="decay of the averaged weights",
        betas="decays of AdamW's two moments",
        weight_decay="of AdamW",
        clip="largest norm of the gradient; 0: any",
        muon="how many times lr Muon learns the blocks' matrices with; 0: AdamW alone",
        schedule="of the learning rate: constant; cosine, to 0; wsd, constant, then to 0 on a line",
        warmup="steps in which the learning rate rises",
        decay="share of the steps, the last, in which wsd falls",
        seed="seed of the batches and the noise",
        rank="rank of a LoRA instead of a full fine-tune; 0 is full",
        checkpointing="recompute activations in the backward pass: slower, less memory",
        keep="steps whose averaged weights are kept",
    )
    _common(parser)


def sample(parser):
    """Those of `dit sample`."""
    from .sample import METHODS, OF_DIT, OF_FLOW, SAMPLERS, Config

    _models(parser)
    parser.add_argument(
        "--weaker", help="autoguidance: an earlier checkpoint of the same fine-tune; default: none"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="the folder of pictures to write, samples.npz and contact.png; a second run in it need not say"
        " its settings again",
    )
    _vae(parser)
    parser.add_argument("--batch", type=int, help="pictures at a time; default: 64, on a CPU 4")
    parser.add_argument(
        "--sheet",
        type=int,
        default=8,
        help="pictures in a row of contact.png, which sets no guidance and CFG above the method, at up to 3"
        " more network calls per step and picture (heun: 6); 0: no sheet; default: 8",
    )
    _fields(
        parser,
        Config,
        method=f"guidance: {', '.join(METHODS)}",
        w="weight of guidance; 1 is off",
        sampler=f"one of {', '.join(SAMPLERS)}; default: {OF_DIT['sampler']}, of a flow, as photos64 is,"
        f" {OF_FLOW['sampler']}",
        steps=f"steps of the sampler; default: {OF_DIT['steps']}, of a flow {OF_FLOW['steps']}",
        count="number of pictures; the classes take turns",
        seed="seed of the noise",
        interval="noise levels sigma within which guidance is on, low and high",
        channels="how many of the first latent channels are guided; 0 is all, 3 is as in the official code",
        fp8="the networks' products in 8-bit floating point, for speed",
    )


def evaluate(parser):
    """Those of `dit evaluate`."""
    parser.add_argument("samples", help="a folder of images or an .npz")
    parser.add_argument("reference", help="the true images: a folder or an .npz")
    parser.add_argument(
        "--features",
        default="inception",
        help="inception (FID), dinov2 (FD_DINOv2), lite0, patches (no download), glyphs; default: inception",
    )
    parser.add_argument("--weights", help="the extractor's weights; default: from the usual cache")
    parser.add_argument("--count", type=int, help="use the first samples only; default: all")
    parser.add_argument("--out", required=True, help="the .json to write")
    device(parser)


def calibrate(parser):
    """Those of `dit calibrate`."""
    from .calibrate import Config

    _models(parser)
    parser.add_argument(
        "--latents",
        required=True,
        help="what prepare wrote with --held-out, or of images that the fine-tune has not seen",
    )
    parser.add_argument("--out", required=True, help="a folder for calibration.json and calibration.png")
    _fields(
        parser,
        Config,
        levels="noise levels sigma, in units of the latents",
        count="number of held-out images",
        seed="seed of the noise",
        batch="images at a time; another number draws other noise",
    )


def table(parser):
    """Those of `dit table`."""
    parser.add_argument("scores", nargs="+", help="what evaluate wrote")
    parser.add_argument("--out", help="a .md to write; default: the table is printed")
