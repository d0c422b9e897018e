"""Domain Guidance in a diffusers pipeline: the fine-tuned network and its guide in the place of one network.

Pipelines with classifier-free guidance compute null + w (labelled - null), w their `guidance_scale`. They
call their network on a batch of the two halves, or once for each. Here the labelled half goes to the
fine-tuned network, and what stands for the null half is made with the guide, so that the pipeline's own
formula gives Domain Guidance or a point of the guidance plane.

Whether guidance is on, of how many branches and at which timestep is read where it is decided: in the
variables of the pipeline's call. So it holds for every pipeline that the network is in, `from_pipe` and
copies included.
"""

import contextlib
import functools
import threading
import warnings

import torch

from .adapters import BatchMismatch, WithoutAdapter, mixable_layers, mixed_batch
from .calls import (
    answer_with,
    call_as,
    each_tensor,
    is_guided_apart,
    joined,
    latents_of,
    pipeline_call,
    rows_in,
    rows_of,
    sample_of,
    unlabelled,
    weight_of,
    with_input,
)
from .checks import (
    EVERYWHERE,
    LAYOUTS,
    OPTIONS,
    as_option,
    bare,
    check_networks,
    check_null,
    check_pipe,
    check_tokens,
    kind_of,
)
from .encoders import null_prompt
from .levels import blurred_prediction, is_inside, level, t_to_sigma
from .saved import reference, save_with_guide
from .standin import StandIn

OWN = (*OPTIONS, "finetuned", "pretrained", "layout", "null", "scheduler", "source", "warned", "run")
OWN += ("forward", "training")  # set by offloading and by every module
SHARED = threading.RLock()  # while an adapter is switched off, no other thread may call its network


class DomainGuidedModel(StandIn):
    """Takes the place of a pipeline's network: `pipe.unet = DomainGuidedModel(pipe.unet, pretrained)`.

    finetuned, pretrained: networks of one class (a key of LAYOUTS), also within torch.compile, DDP, FSDP or
    peft. null: inputs by name, such as `encoder_hidden_states` (1, ...) or `added_cond_kwargs` with
    `text_embeds` (1, ...), that the guide sees in place of the pipeline's own null condition; by default it
    sees the pipeline's, read without the adapters that text encoders may have. DiT's guide always sees its
    own null label, num_embeds_ada_norm.

    These four may be changed between calls, `pipe.unet.domain = 1.3`:
    domain: None, and guidance_scale is the weight w of Domain Guidance, D_pre + w (D_c - D_pre), in two
    network calls a step. Or a weight a of the domain direction, and guidance_scale is the weight b of the
    prompt's or class's, D_pre + a (D_null - D_pre) + b (D_c - D_null), in three; a = 1 takes two and is
    classifier-free guidance.
    interval: the noise levels sigma, of x0 + sigma eps in the units of the latents, between which the guide
    is asked. Outside, `domain` is 1, so the pipeline's own guidance goes on in two calls; without `domain` w
    is 1, and the fine-tuned network is called alone. every: call the guide in every so many-th step and use
    its last answer in between.
    blur: in place of `pretrained` the guide is the fine-tuned network's own labelled density blurred by
    `blur`, in units of the latents (`dgtoy.blurred`); then D_null + b (D_c - D_null) + (a - 1) (D_c - D_blur)
    with `domain`, D_blur + w (D_c - D_blur) without.

    scheduler: tells the noise levels of calls from outside a pipeline; within, the pipeline's does. With
    guidance off it is the fine-tuned network, and a warning says so, unless w = 1 is what turns it off. A
    pipeline with other branches than two is refused at its first step. A guide in another dtype or on another
    device is given the inputs in its own dtype, and moved. What a pipeline asks of its network besides a call
    is answered by the fine-tuned one; what changes how a network computes (FreeU, attention processors,
    casting) is done to both. Called outside a pipeline, an even batch with equal halves is taken for a guided
    one. Raises ValueError for an option out of range and for networks that no pipeline here can serve
    together.
    """

    def __init__(
        self,
        finetuned,
        pretrained=None,
        null=None,
        domain=None,
        interval=EVERYWHERE,
        every=1,
        blur=None,
        scheduler=None,
    ):
        if (pretrained is None) == (blur is None):
            came = "neither came" if blur is None else "both came"
            raise ValueError(f"pretrained, blur: {came}; expected one of the two")
        if blur is not None and null:
            raise ValueError(f"null came with blur {blur}, whose guide sees the prompt itself; expected none")
        pretrained = finetuned if pretrained is None else pretrained
        check_networks(finetuned, pretrained)
        super().__init__(finetuned, pretrained)
        self.layout, self.null = LAYOUTS[kind_of(finetuned)], null or {}
        self.domain, self.interval, self.every, self.blur = domain, interval, every, blur
        self.scheduler, self.source = scheduler, reference(pretrained)
        self.warned = None  # the last warning, until guidance is on again

    def __setattr__(self, name, value):
        """What the fine-tuned network has is changed there. Raises AttributeError for what neither has."""
        value = as_option(name, value)
        if name == "null":
            check_null(value, self.finetuned)
        if name == "blur" and value is None and self.__dict__.get("blur") and not self.has_second():
            raise ValueError("blur is None; expected a width: this pipeline has no second network")
        if name in OWN or name.startswith("_"):
            super().__setattr__(name, value)
        elif hasattr(bare(self.finetuned), name):
            setattr(bare(self.finetuned), name, value)
        else:
            raise AttributeError(f"{name} is no option; expected one of {', '.join(OPTIONS)}")

    def __repr__(self):
        guide = kind_of(self.pretrained)
        if self.blur is not None or self.pretrained is self.finetuned:
            guide = "itself"
        elif isinstance(self.pretrained, WithoutAdapter):
            guide = f"itself without adapter {self.pretrained.adapter or '(any)'}"
        options = ", ".join(f"{name}={getattr(self, name)}" for name in OPTIONS)
        calls = 2 if self.domain in (None, 1) else 3
        return (
            f"DomainGuidedModel({kind_of(self)} guided by {guide}, {options}: {calls} network calls a step)"
        )

    @property
    def save_pretrained(self):
        """Saves the fine-tuned network without its adapters, and beside it the options and a reference to the
        guide."""
        save = bare(self.finetuned).save_pretrained

        @functools.wraps(save)  # a pipeline looks at its parameters
        def save_both(save_directory, *args, **kwargs):
            save_with_guide(self, save_directory, *args, **kwargs)

        return save_both

    @torch.compiler.disable(recursive=False)  # it reads its callers' variables
    def forward(self, *args, **kwargs):
        """As the network's own forward, answered half by half where guidance is on."""
        with SHARED if isinstance(self.pretrained, WithoutAdapter) else contextlib.nullcontext():
            call = pipeline_call()
            if call:
                check_pipe(call["self"])
            return self._forward(args, kwargs, call)

    @torch.compiler.disable(recursive=False)
    def _forward(self, args, kwargs, call):
        if self.layout.order == "apart":
            return self._apart(args, kwargs, call)
        x = latents_of(args, kwargs)
        if not self._is_guided(x, kwargs, call):
            return self.finetuned(*args, **kwargs)
        n = len(x) // 2
        labelled, null = self.ordered(slice(n), slice(n, None))
        main, own, guide = self._three(args, kwargs, labelled, null, n, call)
        null_part, labelled_part = self._parts(main, own, guide, weight_of(call))
        return joined(*self.ordered(labelled_part, null_part))

    @torch.compiler.disable(recursive=False)
    def _apart(self, args, kwargs, call):
        """The answer of one branch, the labelled one first."""
        w, step = weight_of(call, self.layout.scale), call.get("t")
        follows = self.run.labelled is not None and step is not None and step is self.run.step
        if self.run.branch == "uncond" or follows:  # the second call of a step
            self.warned = None
            return self.answer_null(args, kwargs, call, w)
        if call and not is_guided_apart(call):
            self._warn(call["self"], w)
        self.run.step = step
        return self.answer_labelled(args, kwargs)

    def answer_labelled(self, args, kwargs):
        """The labelled branch of two that are called apart."""
        main = self.finetuned(*args, **kwargs)
        self.run.labelled = args, kwargs, main
        return main

    @torch.compiler.disable(recursive=False)
    def answer_null(self, args, kwargs, call, w):
        """What stands for the null branch in null + w (labelled - null), after `answer_labelled`."""
        if self.run.labelled is None:
            raise ValueError("the null branch is called first; expected the labelled one before it")
        args_c, kwargs_c, main = self.run.labelled
        self.run.labelled = None
        if self.domain is not None and w is None:
            raise ValueError(
                f"domain is {self.domain}; expected None outside a pipeline: its scale is needed"
            )
        own = None if self.domain is None else self.finetuned(*args, **unlabelled(self.finetuned, kwargs))
        guide = None
        if self._is_asked(args, kwargs, call):
            self._begin(kwargs, call)
            guide = self._guide(main, (args_c, kwargs_c), (args, kwargs), call)
        return self._parts(main, own, guide, w)[0]

    @torch.compiler.disable
    def _is_guided(self, x, kwargs, call):
        """Whether a call is on a labelled and a null half, as the pipeline that makes it has it."""
        latents = call.get("latents", call.get("intermediate_images"))
        if "modular" in call:
            raise ValueError(
                "the network of a modular pipeline is guided; expected guide_pipeline(pipe, ...)"
            )
        if latents is None:  # called from elsewhere
            n = len(x) // 2
            return len(x) % 2 == 0 and bool((x[:n] == x[n:]).all())
        pipe, w = call["self"], weight_of(call)
        told = call.get("do_classifier_free_guidance", getattr(pipe, "do_classifier_free_guidance", None))
        is_on = told if told is not None else (w is None or w > 1)
        if not is_on:
            self._warn(pipe, w)
            return False
        if len(x) <= len(latents) and (told is None or kwargs.get("skip_layers")):
            return False  # one branch by itself
        more = call.get("do_self_attention_guidance")  # its third branch comes by itself
        if w is None or more or len(x) != 2 * len(latents):
            came = "without a guidance_scale" if w is None else f"{len(x)} rows for {len(latents)} images"
            came = "a third time" if more else came
            raise ValueError(
                f"a {type(pipe).__name__} calls its network {came}; expected two branches, labelled and null"
            )
        self.warned = None
        return True

    def _warn(self, pipe, w):
        """Say once that a pipeline leaves its guide out, unless w = 1 asks for that, w the one weight."""
        name = self.layout.scale
        is_meant = w == 1 and self.domain in (None, 1) and name == "guidance_scale"
        text = f"{name} is {w}: this {type(pipe).__name__} is not guided; expected {name} above 1"
        if name == "true_cfg_scale":
            text += " and a negative prompt (guidance_scale is not w here)"
        if text != self.warned and not is_meant:
            self.warned = text
            warnings.warn(text, stacklevel=2)

    def ordered(self, labelled, null):
        """The two halves in the pipeline's order; also the two halves in that order as labelled and null."""
        return (labelled, null) if self.layout.order == "first" else (null, labelled)

    def _time(self, args, kwargs, call):
        """The timestep of a call, in the scheduler's units."""
        time = call.get("t")
        if time is None:
            time = self.layout.timestep(kwargs["timestep"] if "timestep" in kwargs else args[1])
        return float(time.flatten()[0]) if torch.is_tensor(time) else float(time)

    def _scheduler(self, call):
        return getattr(call.get("self"), "scheduler", self.scheduler)

    @torch.compiler.disable
    def _begin(self, kwargs, call):
        """In a run's first guided step nothing is left of the last run. kwargs: the null half's inputs."""
        timesteps = getattr(self._scheduler(call), "timesteps", None) if call else None
        if timesteps is not self.run.timesteps:
            self.run.timesteps, self.run.steps = timesteps, 0
            self.run.prompt = self.guides_prompt(kwargs, call)

    def guides_prompt(self, kwargs, call):
        """The null prompt of a pipeline's call as the guide has to see it, {} if that is as in kwargs."""
        if self.null or self.blur is not None:
            return {}
        return null_prompt(call, kwargs, getattr(self.pretrained, "adapter", None))

    @torch.compiler.disable
    def _is_asked(self, args, kwargs, call):
        """Whether the guide has a weight at this call's noise level; without an interval no device is waited
        for."""
        if self.domain == 1 or tuple(self.interval) == EVERYWHERE:
            return self.domain != 1
        scheduler = self._scheduler(call)
        if call:
            self._check_interval(scheduler)
        return is_inside(self.interval, self._time(args, kwargs, call), scheduler)

    def _check_interval(self, scheduler):
        """Say, once a run, that none of its noise levels lies in the interval."""
        timesteps = getattr(scheduler, "timesteps", None)
        if timesteps is None or timesteps is self.run.checked:
            return
        self.run.checked = timesteps
        sigmas = t_to_sigma(timesteps, scheduler)
        if not ((self.interval[0] <= sigmas) & (sigmas <= self.interval[1])).any():
            warnings.warn(
                f"interval is {self.interval}: the guide is never asked, as none of this run's noise levels, "
                f"{sigmas.max():.3g} to {sigmas.min():.3g}, lies in it; expected sigma, not timesteps",
                stacklevel=2,
            )

    @torch.compiler.disable(recursive=False)
    def _three(self, args, kwargs, labelled, null, n, call):
        """Labelled, own null and the guide's answer for a batch of two halves; None where none is needed."""
        is_asked = self._is_asked(args, kwargs, call)
        if is_asked:
            self._begin(rows_in(kwargs, null, n), call)
        layers = self._mixable_layers() if is_asked else []
        if layers:  # one forward for all
            with contextlib.suppress(BatchMismatch):
                return self._mixed(args, kwargs, labelled, null, n, layers)
        half = lambda rows: (rows_in(args, rows, n), rows_in(kwargs, rows, n))
        if self.domain is None:
            args_c, kwargs_c = half(labelled)
            main, own = self.finetuned(*args_c, **kwargs_c), None
        else:
            given = rows_in(kwargs, slice(None), n)  # a UNet empties its list of a T2I-Adapter's residuals
            both = self.finetuned(*args, **unlabelled(self.finetuned, given, null))
            main, own = rows_of(both, labelled), rows_of(both, null)
        guide = self._guide(main, half(labelled), half(null), call) if is_asked else None
        return main, own, guide

    def _mixed(self, args, kwargs, labelled, null, n, layers):
        """The same by one forward, in which the rows of the guide do without the adapter."""
        order = [labelled, null] if self.domain is None else [labelled, null, null]
        rows = torch.cat([torch.arange(2 * n)[part] for part in order])
        args, kwargs = rows_in(args, rows, n), rows_in(kwargs, rows, n)
        with mixed_batch(self.finetuned, layers, len(rows) - n, len(rows)):
            out = self.finetuned(*args, **unlabelled(self.finetuned, kwargs, slice(n, None)))
        main, *own, guide = (rows_of(out, slice(i, i + n)) for i in range(0, len(rows), n))
        return main, own[0] if own else None, guide

    def _mixable_layers(self):
        """The LoRA's layers if one forward can serve both networks, or none.

        Then the guide is the fine-tuned network without its adapter, and sees what the pipeline gives.
        """
        same = isinstance(self.pretrained, WithoutAdapter) and self.pretrained.net is self.finetuned
        if not same or self.null or self.run.prompt or self.every > 1:
            return []
        return mixable_layers(self.finetuned, self.pretrained.adapter)

    def _parts(self, main, own, guide, w):
        """What stands for the null and for the labelled half, given the pipeline's weight if it is known."""
        if guide is None:  # w is 1, or the line of classifier-free guidance
            return main if own is None else own, main
        if self.domain is None:
            return guide, main
        D_c, D_null, D_guide = (sample_of(out) for out in (main, own, guide))
        shift = (self.domain - 1) * ((D_null if self.blur is None else D_c) - D_guide)
        if w is None:  # outside a pipeline: both halves are moved
            return answer_with(own, D_null + shift), answer_with(main, D_c + shift)
        least = 8 * torch.finfo(shift.dtype).eps
        if abs(w - 1) < least:  # asked here: a whole graph may hold no call that is not compiled
            self._warn_of_rounding(w, shift.dtype, 1 + least)
        return answer_with(own, D_null - shift / (w - 1)), main

    @torch.compiler.disable
    def _warn_of_rounding(self, w, dtype, least):
        """Say that the null part, with shift / (w - 1) in it, is too large for its precision."""
        text = f"{self.layout.scale} is {w}, so near 1 that {dtype} rounds the domain's part"
        warnings.warn(f"{text}; expected {least} or more", stacklevel=2)

    @torch.compiler.disable(recursive=False)
    def _guide(self, main, labelled, null, call):
        """The guide's answer, its last one where it rests."""
        if self.every == 1:
            return self._call_guide(main, labelled, null, call)
        run = self.run
        if not call:  # outside a pipeline time alone tells a new run; inside, a solver may go back in time
            time = self._time(*null, call)
            run.steps = 0 if time >= run.last_time else run.steps
            run.last_time = time
        if run.steps % self.every == 0 or sample_of(run.last_guide).shape != sample_of(main).shape:
            run.last_guide = self._call_guide(main, labelled, null, call)
        run.steps += 1
        return run.last_guide

    def _call_guide(self, main, labelled, null, call):
        """The guide's answer to the null half, with its own null condition; blurred, to the labelled half."""
        if self.blur is not None:
            return self._blurred(main, *labelled, call)
        args, kwargs = null
        inputs = self.guide_null(kwargs, len(sample_of(main)), self.run.prompt)
        return call_as(self.pretrained, args, inputs)

    def guide_null(self, kwargs, n, prompt):
        """The null half's inputs, of n rows, as the guide sees them: with its own null condition, or a prompt
        of `guides_prompt`."""
        own = each_tensor(lambda v: v.expand(n, *v.shape[1:]), self.null or prompt)
        for name in own:
            own[name] = kwargs[name] | own[name] if isinstance(own[name], dict) else own[name]
        return unlabelled(self.pretrained, kwargs) | own

    @torch.compiler.disable(recursive=False)
    def _blurred(self, main, args, kwargs, call):
        """The fine-tuned network's prediction for its own density blurred by `blur`."""
        scheduler, time = self._scheduler(call), self._time(args, kwargs, call)
        t, r, k, c = blurred_prediction(level(time, scheduler), self.blur, scheduler)
        x, like = latents_of(args, kwargs), sample_of(main)
        check_tokens(x, call)
        axis = 1 if x.ndim > 3 else -1  # of the channels: (B, C, H, W), or tokens (B, L, C)
        channels = min(x.shape[axis], like.shape[axis])
        latents, more = x.split([channels, x.shape[axis] - channels], axis)  # masks, say, come behind
        args, kwargs = with_input(args, kwargs, torch.cat([r * latents, more], axis), self.layout.time(t))
        out = self.finetuned(*args, **kwargs)
        prediction, variance = sample_of(out).split([channels, like.shape[axis] - channels], axis)
        return answer_with(out, torch.cat([k * prediction - self.layout.sign * c * latents, variance], axis))
