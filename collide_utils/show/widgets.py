"""The parts of panels: controls with a name, one picture whose bytes are replaced, and words that are read out."""

import html

# ipywidgets gives no names to the buttons of Play and to a slider's handle, and as its value the number of the stop.
_NAMES = """{
const words = {play: 'Play', pause: 'Pause', stop: 'Stop', retweet: 'Repeat', repeat: 'Repeat'};
const name = () => {
    for (const icon of document.querySelectorAll('.widget-play button i')) {
        const word = /fa-(\\w+)/.exec(icon.className);
        if (word) icon.parentElement.setAttribute('aria-label', words[word[1]]);
    }
    for (const handle of document.querySelectorAll('.widget-slider .noUi-handle')) {
        const slider = handle.closest('.widget-slider');
        handle.setAttribute('aria-label', slider.querySelector('.widget-label').textContent);
        handle.setAttribute('aria-valuetext', slider.querySelector('.widget-readout').textContent);
    }
};
name();
new MutationObserver(name).observe(document.body, {
    attributeFilter: ['class'], childList: true, characterData: true, subtree: true});
}"""

# Voila takes the icons of the play button from a server elsewhere; these need none.
_ICONS = """.widget-play .fa::before { font: 1em sans-serif } .widget-play .fa-play::before { content: "▶" }
.widget-play .fa-pause::before { content: "❚❚" } .widget-play .fa-stop::before { content: "■" }
.widget-play .fa-repeat::before, .widget-play .fa-retweet::before { content: "⟳" }"""


def heading(title, words):
    """Return the top of a page that has no notebook around its panel; `words` are HTML."""
    import ipywidgets

    return ipywidgets.HTML(
        f'<style>{_ICONS}</style><h1 style="font-size: 1.4em; margin: 0">{title}</h1>'
        f'<p style="margin: 0.3em 0; line-height: 1.4">{words}</p>'
    )


def box(children):
    """Return a column of widgets whose text names its controls: what a reader without a kernel sees instead."""
    import ipywidgets

    class Panel(ipywidgets.VBox):
        def __repr__(self):
            children = [inner for child in self.children for inner in getattr(child, "children", [child])]
            names = [child.description for child in children if getattr(child, "description", "")]
            return f"[interactive panel: {', '.join(names)}]"

    return Panel(children)


def picture(words):
    """Return an image widget of WebP bytes, with its alternative text."""
    import ipywidgets
    import traitlets

    class Picture(ipywidgets.Image):
        # ipywidgets' view asks for a description before it sets a tooltip, the one place for words on an image.
        description = traitlets.Unicode("").tag(sync=True)

    return Picture(format="webp", tooltip=words, layout=dict(max_width="100%", align_self="flex-start"))


def beside(picture, words):
    """Return a row of a picture and its words, which go below it where there is no room for 250 pixels."""
    import ipywidgets

    words.layout.flex, words.layout.margin = "1 1 250px", "2px 2px 2px 12px"
    return ipywidgets.HBox([picture, words], layout=dict(flex_flow="row wrap"))


def control(kind, width, *args, **options):
    """Return a widget of the class `kind`, of a `width` in CSS's units, its description as wide as its words."""
    return kind(*args, **options, style=dict(description_width="initial"), layout=dict(width=width))


def played(slider, last, interval):
    """Return a row: a play button, which steps from 0 to `last` every `interval` milliseconds, and its slider."""
    import ipywidgets

    place = "index" if hasattr(slider, "index") else "value"
    play = ipywidgets.Play(value=getattr(slider, place), max=last, interval=interval)
    play.observe(lambda change: setattr(slider, place, change.new), "value")
    slider.observe(lambda change: setattr(play, "value", change.new), place)
    slider.layout.flex = "1 1 auto"
    output = {"output_type": "display_data", "data": {"application/javascript": _NAMES}, "metadata": {}}
    return ipywidgets.HBox([play, slider, ipywidgets.Output(outputs=(output,), layout=dict(display="none"))])


def status(words):
    """Return words as HTML that screen readers announce when it changes."""
    return f'<div role="status" style="line-height: 1.4">{html.escape(words)}</div>'
