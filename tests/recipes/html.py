"""Reads what a report shows."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The text of a page: `tables` by their headings, `captions`, `numbers`, `images`.

    A table is a list of rows, the titles first.
    """

    def __init__(self, html):
        super().__init__()
        self.tables, self.captions, self.images, self.numbers = {}, [], [], {}
        self.headings, self.text, self.term = [], "", None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables[self.headings[-1]] = []
        elif tag == "tr":
            self.row = []
        elif tag == "img":
            self.images.append(dict(attributes)["src"])
        if tag in ("br", "small"):
            self.text += "\n"
        elif tag not in ("span", "img"):
            self.text = ""

    def handle_data(self, text):
        self.text += text

    def handle_endtag(self, tag):
        text = self.text.strip()
        if tag in ("h1", "h2", "h3"):
            self.headings.append(text)
        elif tag in ("td", "th"):
            self.row.append(text)
        elif tag == "tr":
            self.tables[self.headings[-1]].append(self.row)
        elif tag == "figcaption":
            self.captions.append(text.replace("\n\n", "\n"))
        elif tag == "dt":
            self.term = text
        elif tag == "dd":
            self.numbers[self.term] = text
