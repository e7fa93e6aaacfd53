"""Questions to a page, in the language of the browser; each answers with offenders."""

#: Open all that can be opened; answers with nothing.
UNFOLD = "document.querySelectorAll('details').forEach(e => { e.open = true; })"

#: What sticks out of the window and cannot be scrolled to in a box of its own.
CUT_OFF = """() => {
  const found = [], width = document.documentElement.clientWidth;
  const whole = document.scrollingElement.scrollWidth;
  if (whole > width) found.push(`the page is ${whole} wide in a window of ${width}`);
  for (const e of document.body.querySelectorAll('*')) {
    if (e.closest('svg') && e.tagName !== 'svg' || e.matches('.skip')) continue;
    const box = e.closest('.wide');
    if (box && box !== e && getComputedStyle(box).overflowX === 'auto') continue;
    const r = e.getBoundingClientRect();
    if (r.width && (r.right > width + 1 || r.left < -1))
      found.push(`${r.left} to ${r.right}: ${e.outerHTML.slice(0, 100)}`);
  }
  return found;
}"""

#: Boxes that scroll but that a keyboard cannot reach, or that have no name.
UNREACHABLE = """() => [...document.querySelectorAll('body *')]
  .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
    && getComputedStyle(e).overflowX === 'auto')
  .filter(e => e.tabIndex !== 0 || !e.ariaLabel || !e.role)
  .map(e => e.outerHTML.slice(0, 100))"""

#: Text below a height in CSS pixels, as it is displayed, and how much there was.
SMALL = """smallest => {
  const found = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility()) continue;
    if (e.matches('title, desc, style')) continue;
    seen += 1;
    let size = parseFloat(getComputedStyle(e).fontSize);
    if (e.closest('svg')) {
      const m = e.getScreenCTM();
      size *= Math.hypot(m.a, m.b);
    }
    if (size < smallest) found.push(`${size} px: ${walker.currentNode.data}`);
  }
  return [seen, found];
}"""

#: Words of a drawing that lie over each other or outside of it.
CLASHES = """() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
    const boxes = words.map(t => t.getBoundingClientRect());
    boxes.forEach((a, i) => {
      const name = words[i].textContent;
      if (a.left < frame.left - 2 || a.right > frame.right + 2
          || a.top < frame.top - 2 || a.bottom > frame.bottom + 2)
        found.push(`outside: ${name} ${[a.left, a.right, frame.left, frame.right]}`);
      for (let j = 0; j < i; j += 1) {
        const b = boxes[j];
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        // The box of a line of text is higher than its letters.
        if (wide > 2 && high > 0.35 * Math.min(a.height, a.width, b.height, b.width))
          found.push(`over each other: ${name} and ${words[j].textContent}`);
      }
    });
  }
  return found;
}"""

#: Contrast (WCAG 2.2) of the words of drawings, and of their marks, with the page.
CONTRASTS = """() => {
  const light = color => {
    const parts = color.match(/[0-9.]+/g).slice(0, 3).map(x => x / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const page = light(getComputedStyle(document.body).backgroundColor);
  const ratio = color => {
    const l = light(color);
    return (Math.max(l, page) + 0.05) / (Math.min(l, page) + 0.05);
  };
  const words = {}, marks = {};
  for (const e of document.querySelectorAll('svg text, svg path, svg use')) {
    const look = getComputedStyle(e);
    const into = e.tagName === 'text' ? words : marks;
    for (const color of e.tagName === 'text' ? [look.fill] : [look.fill, look.stroke])
      if (color.startsWith('rgb(')) into[color] = ratio(color);
  }
  return [words, marks];
}"""
