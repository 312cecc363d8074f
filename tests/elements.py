"""The elements of an HTML page."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Gathers what stands in each kind of element, and elements that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.images, self.links, self.ids = [], [], [], [], set()
        self.labels, self.disordered = [], []
        self.tags, self.handlers = set(), []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get("id"))
        self.tags.add(tag)
        self.handlers += [name for name in attributes if name.startswith("on")]
        self.images += [attributes] if tag == "img" else []
        self.labels += [attributes["aria-label"]] if tag == "svg" else []
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag not in VOID:
            self.open.append((tag, attributes.get("class", "")))

    def handle_endtag(self, tag):
        if self.open.pop()[0] != tag:
            self.disordered.append(tag)

    def handle_data(self, data):
        if self.open:
            self.found.append((*self.open[-1], data))

    @property
    def text(self):
        return "".join(text for *_, text in self.found)

    def texts(self, tag, kind=None):
        return [text for name, its, text in self.found if name == tag and kind in (its, None)]


def parse(html):
    reader = Reader()
    reader.feed(html)
    return reader
