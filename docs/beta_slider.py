"""A β slider for readers without a kernel: pictures of every step, made once, and a few lines of JavaScript."""

import html
import json
from io import BytesIO

import torch
from PIL import Image

from collide_utils import images, models
from collide_utils.comparison import Reference
from collide_utils.search import NullSpaceSearch

BETAS = [0, *(2**k for k in range(14))]
PAGE = """<div class="beta-slider">
<label for="beta">β = <output id="beta-value"></output></label>
<input id="beta" type="range" min="0" max="{last}" value="{start}" aria-describedby="beta-words">
<div class="beta-pictures">
<figure><img id="beta-sum" alt="The photograph plus β times the perturbation, clipped as a screen clips it">
<figcaption>photograph + perturbation, as shown</figcaption></figure>
<figure><img id="beta-seen" alt="What the first layer sees of it">
<figcaption>what the network sees</figcaption></figure>
</div>
<p id="beta-words" role="status"></p>
</div>
<script>
{{const steps = {steps}, slider = document.getElementById("beta");
const show = () => {{const step = steps[slider.value];
document.getElementById("beta-value").textContent = step.beta;
document.getElementById("beta-sum").src = "_static/beta/sum" + slider.value + ".jpg";
document.getElementById("beta-seen").src = "_static/beta/seen" + slider.value + ".jpg";
document.getElementById("beta-words").textContent = step.words;}};
slider.addEventListener("input", show); show();}}
</script>
"""


def write(folder, network="patchnet", photograph="chelsea", start=512):
    """Write the pictures to ``folder/_static/beta`` and return the slider as HTML for a page of that folder."""
    model, image = models.load(network), images.load(photograph).double()
    search = NullSpaceSearch(model)
    perturbation, reference = search.random(torch.Generator().manual_seed(0)), Reference(model, image)
    target, steps = folder / "_static" / "beta", []
    target.mkdir(parents=True)
    for number, beta in enumerate(BETAS):
        colliding = search.collide(image, perturbation, beta)
        fed, shown = reference.compare(colliding).said[1], reference.compare(colliding.clamp(0, 1)).said[1]
        for name, picture in (("sum", colliding), ("seen", search.seen(colliding))):
            (target / f"{name}{number}.jpg").write_bytes(_jpeg(picture))
        words = f"{network} says {fed} to the numbers, and {shown} to the picture as shown."
        steps.append({"beta": beta, "words": html.escape(words)})
    return PAGE.format(last=len(BETAS) - 1, start=BETAS.index(start), steps=json.dumps(steps, ensure_ascii=False))


def _jpeg(picture):
    pixels = picture.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88, subsampling=0)
    return buffer.getvalue()
