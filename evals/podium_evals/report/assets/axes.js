// Scales and axes. A scale is a function from a value to a place, with the ticks that belong to it.

function steps(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9; k += 1) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

function linear(low, high, from, to, wanted = 5) {
  const place = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  place.ticks = steps(low, high, wanted);
  return place;
}

function logarithmic(low, high, from, to) {
  const [bottom, top] = [Math.log10(low), Math.log10(high)];
  const place = (value) => from + ((Math.log10(value) - bottom) / (top - bottom || 1)) * (to - from);
  const factors = top - bottom > 3.5 ? [1] : top - bottom > 1.6 ? [1, 3] : [1, 2, 5];
  place.ticks = [];
  for (let power = Math.floor(bottom); power <= Math.ceil(top); power += 1) {
    for (const factor of factors) {
      const value = Number((factor * 10 ** power).toPrecision(3));
      if (value >= low * 0.999 && value <= high * 1.001) place.ticks.push(value);
    }
  }
  return place;
}

// A measure's axis: the range of the values with some air, never beyond 0 and 1.
function qualityScale(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const air = Math.max(0.01, (high - low) * 0.08);
  return linear(Math.max(0, low - air), Math.min(1, high + air), from, to, Math.max(3, Math.abs(from - to) / 60));
}

function qualityAxis(y, left, right) {
  const digits = y.ticks.some((tick) => Math.round(tick * 1000) % 10) ? 3 : 2;
  return svg(
    "g",
    { class: "axis", "aria-hidden": "true" },
    y.ticks.map((tick) => [
      svg("line", { x1: left, x2: right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, quality(tick, digits)),
    ]),
  );
}

// Labels one under another: pushed apart until none touches its neighbour.
function spread(places, gap, low, high) {
  const sorted = places.map((at, index) => ({ at, index })).sort((a, b) => a.at - b.at);
  for (let k = 1; k < sorted.length; k += 1) sorted[k].at = Math.max(sorted[k].at, sorted[k - 1].at + gap);
  const beyond = sorted.length ? sorted[sorted.length - 1].at - high : 0;
  if (beyond > 0) {
    sorted[sorted.length - 1].at -= beyond;
    for (let k = sorted.length - 2; k >= 0; k -= 1) sorted[k].at = Math.min(sorted[k].at, sorted[k + 1].at - gap);
  }
  const moved = [];
  for (const { at, index } of sorted) moved[index] = Math.max(low - gap, at);
  return moved;
}

function canvas(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label });
}
