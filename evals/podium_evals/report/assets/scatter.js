// Quality against what it took. The front is the systems that nobody beats at their price.

const DECADES = 20; // A range this many times its beginning is drawn in powers of ten.
const GUTTER = 34; // Where what cost nothing stands, on an axis that cannot show 0.

function paretoFront(points) {
  const front = [];
  let best = -Infinity;
  for (const point of [...points].sort((a, b) => a.x - b.x || b.y - a.y)) {
    if (point.y > best) {
      front.push(point);
      best = point.y;
    }
  }
  return front;
}

const LABELLED_MAX = 14; // Of more points only those on the front have room for a name.

// Points are {name, x, y, low, high, place}; x is null where it is not known, which `none` says in words.
function scatter(area, points, { write, none, label, less = "cheaper", remark = "", focus = null, pick = null }) {
  const known = points.filter((point) => point.x !== null);
  const absent = points.filter((point) => point.x === null).map((point) => point.name);
  if (!known.length) {
    area.replaceChildren(el("p", { class: "missing" }, `${none} for any of them.`));
    return;
  }
  const [width, height] = [area.clientWidth, area.clientWidth < 420 ? 300 : 340];
  const [left, right, top, bottom] = [40, width - 14, 14, height - 30];
  const paid = known.map((point) => point.x).filter((x) => x > 0);
  const logs = paid.length > 1 && Math.max(...paid) / Math.min(...paid) >= DECADES;
  const free = paid.length < known.length;
  const begin = left + (logs && free ? GUTTER : 10);
  const y = qualityScale(points.flatMap((point) => [point.low, point.high]), bottom, top);
  const x = !paid.length
    ? linear(0, 1, begin, right)
    : logs
      ? logarithmic(Math.min(...paid) / 1.25, Math.max(...paid) * 1.5, begin, right)
      : linear(0, Math.max(...paid) * 1.08, begin, right, width < 420 ? 3 : 5);
  const place = (value) => (logs && value === 0 ? left + 12 : x(value));
  const drawn = canvas(width, height, label);
  drawn.append(qualityAxis(y, left, right), costAxis(x, write, { left, right, bottom, gutter: logs && free }));
  const front = paretoFront(known);
  drawn.append(frontLine(front, place, y, right));
  const marks = known.map((point) => ({
    ...point,
    px: place(point.x),
    py: y(point.y),
    best: front.includes(point),
    chosen: focus === point.place,
  }));
  for (const mark of [...marks].sort((a, b) => a.best - b.best || a.chosen - b.chosen)) drawn.append(scatterMark(mark, y, write, pick));
  const labelled = marks.length > LABELLED_MAX ? marks.filter((mark) => mark.best || mark.chosen) : marks;
  for (const { node, mark } of placeLabels(marks, labelled, lineBoxes(front, place, y, right), { left, right, top, bottom })) {
    if (pick) node.addEventListener("click", () => pick(mark.place));
    drawn.append(node);
  }
  const said = [`The line joins those that nothing ${less} equals. ${remark}`];
  if (absent.length) said.push(`${none}: ${absent.join(", ")}.`);
  area.replaceChildren(drawn, ...said.map((sentence) => el("p", { class: "about" }, sentence)));
}

function drawScatter(area, suite, index, { key, factor, write, none, what, less, remark }) {
  const points = suite.systems.map((system, place) => ({ ...system, place, x: system[key] === null ? null : system[key] * factor, y: system.mean }));
  scatter(area, points, { write, none, less, remark, label: `${suite.measure} against ${what}`, focus: chosen[index].focus, pick: (place) => choose(index, place) });
}

// A chart that a section brings: points without intervals, and nothing to choose.
function drawPlot(area, { points, unit, measure, title }) {
  const write = { usd: dollars, s: seconds }[unit] || counted;
  const given = points.map((point, place) => ({ name: point.name, place, x: point.x, y: point.y, low: point.low ?? point.y, high: point.high ?? point.y }));
  scatter(area, given, { write, none: "Not known", label: `${measure}: ${title}` });
}

function costAxis(x, write, { left, right, bottom, gutter }) {
  const ticks = x.ticks.filter((tick) => tick > 0 || !gutter);
  return svg(
    "g",
    { class: "axis", "aria-hidden": "true" },
    gutter && svg("text", { x: left + 12, y: bottom + 20, "text-anchor": "middle" }, "0"),
    gutter && svg("path", { d: `M${left + GUTTER - 11} ${bottom + 5}l5 -10m3 10l5 -10`, class: "leader" }),
    ticks.map((tick) => [
      svg("line", { x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5, class: "zero" }),
      svg("text", { x: x(tick), y: bottom + 20, "text-anchor": "middle" }, short(write(tick))),
    ]),
    svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "zero" }),
  );
}

function frontLine(front, place, y, right) {
  let way = "";
  front.forEach((point, k) => {
    way += k ? `H${place(point.x)}V${y(point.y)}` : `M${place(point.x)} ${y(point.y)}`;
  });
  return svg("path", { d: `${way}H${right}`, class: "front" });
}

function scatterMark(mark, y, write, pick) {
  const said = `${mark.name}: ${quality(mark.y)}, ${write(mark.x)}${mark.best ? ", on the front" : ""}`;
  return svg(
    "g",
    { class: `point${mark.best ? " best" : ""}${mark.chosen ? " chosen" : ""}`, "aria-label": said, ...(pick ? acting(() => pick(mark.place)) : { role: "img" }) },
    svg("title", {}, said),
    mark.high > mark.low && svg("line", { x1: mark.px, x2: mark.px, y1: y(mark.low), y2: y(mark.high), class: "interval" }),
    svg("circle", { cx: mark.px, cy: mark.py, r: 4.5 }),
    mark.chosen && svg("circle", { cx: mark.px, cy: mark.py, r: 8, class: "halo" }),
  );
}

// What the labels should not stand on: the front's line, in thin boxes.
function lineBoxes(front, place, y, right) {
  return front.flatMap((point, k) => {
    const [x0, x1] = [place(point.x), k + 1 < front.length ? place(front[k + 1].x) : right];
    const [y0, y1] = [y(point.y), k + 1 < front.length ? y(front[k + 1].y) : y(point.y)];
    return [{ x0, x1, y0: y0 - 2, y1: y0 + 2 }, { x0: x1 - 2, x1: x1 + 2, y0: Math.min(y0, y1), y1: Math.max(y0, y1) }];
  });
}

// Each label takes the free place nearest to its point; what stands on the front chooses first.
function placeLabels(marks, labelled, lines, { left, right, top, bottom }) {
  const taken = marks.map((mark) => ({ x0: mark.px - 6, x1: mark.px + 6, y0: mark.py - 6, y1: mark.py + 6 })).concat(lines);
  const order = [...labelled].sort((a, b) => b.chosen - a.chosen || b.best - a.best || b.py - a.py);
  return order.map((mark) => {
    const text = clipped(mark.name, right - left < 330 ? 18 : 26);
    const wide = widthOf(text, 12) + 4;
    let best = null;
    for (const far of [10, 20, 34, 50]) {
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -0.8], [1, 0.8], [-1, -0.8], [-1, 0.8]]) {
        const x0 = dx > 0 ? mark.px + far * 0.9 : dx < 0 ? mark.px - far * 0.9 - wide : mark.px - wide / 2;
        const middle = mark.py + dy * far * (dx ? 0.75 : 1.25);
        const box = { x0, x1: x0 + wide, y0: middle - 8, y1: middle + 8 };
        const outside = Math.max(0, left - box.x0) + Math.max(0, box.x1 - right - 10) + Math.max(0, top - 8 - box.y0) + Math.max(0, box.y1 - bottom);
        const cost = overlap(box, taken) + outside * 60 + far * 1.4;
        if (!best || cost < best.cost) best = { cost, box, far };
      }
    }
    taken.push(best.box);
    const { box } = best;
    const middle = (box.y0 + box.y1) / 2;
    const near = Math.min(Math.max(mark.px, box.x0), box.x1);
    const node = svg(
      "g",
      { class: mark.chosen ? "chosen" : "", "aria-hidden": "true" },
      best.far > 10 && svg("line", { x1: mark.px, y1: mark.py, x2: near, y2: middle, class: "leader" }),
      svg("text", { x: box.x0 + 2, y: middle + 4, class: `label${mark.best || mark.chosen ? "" : " quiet"}` }, text),
    );
    return { node, mark };
  });
}

function overlap(box, others) {
  let sum = 0;
  for (const other of others) {
    const wide = Math.min(box.x1, other.x1) - Math.max(box.x0, other.x0);
    const high = Math.min(box.y1, other.y1) - Math.max(box.y0, other.y0);
    if (wide > 0 && high > 0) sum += wide * high;
  }
  return sum;
}
