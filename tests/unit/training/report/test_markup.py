from training.report.markup import Markup, details, element, facts, fingerprint, join, numbers, paragraph, table, words


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "1 < 2 & 'x'")
    assert inner == "<b>1 &lt; 2 &amp; &#x27;x&#x27;</b>"
    assert paragraph("so: ", inner) == f"<p>so: {inner}</p>"
    assert join(["<", Markup("<br>"), 3]) == "&lt;<br>3"


def test_attributes_are_quoted_and_may_be_left_out() -> None:
    assert element("a", "x", href='#"><script>', class_=None) == '<a href="#&quot;&gt;&lt;script&gt;">x</a>'
    assert element("g", class_="box", aria_label="a") == '<g class="box" aria-label="a"></g>'


def test_table_names_rows_and_columns_and_aligns_numbers() -> None:
    found = table("Two & more", [*words("name"), *numbers("size")], [("<a>", 3)])
    assert "<caption>Two &amp; more</caption>" in found
    assert '<th scope="col">name</th><th scope="col" class="number">size</th>' in found
    assert '<tr><th scope="row">&lt;a&gt;</th><td class="number">3</td></tr>' in found


def test_facts_without_value_are_left_out() -> None:
    assert facts([("a", 0), ("b", None)]) == ('<dl class="facts"><div><dt>a</dt><dd>0</dd></div></dl>')


def test_fingerprints_are_cut_and_whole_in_the_title() -> None:
    assert fingerprint("0123456789abcdef") == '<code title="0123456789abcdef">0123456789</code>'


def test_details_are_folded() -> None:
    assert details("more", "<x>") == "<details><summary>more</summary>&lt;x&gt;</details>"
