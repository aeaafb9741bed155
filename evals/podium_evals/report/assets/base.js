// Elements, numbers, and what has been chosen. Texts of the data go through textContent alone: none is ever markup.

const SVG = "http://www.w3.org/2000/svg";
const DATA = JSON.parse(document.getElementById("figures").textContent);
const SUITES = DATA.suites;

// Of each suite: the system that is looked at, and the one it is compared with.
const chosen = SUITES.map((suite) => ({
  focus: suite.best === suite.baseline && suite.systems.length > 1 ? (suite.baseline ? 0 : 1) : suite.best,
  against: suite.baseline,
}));

function build(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

const el = (name, attributes, ...children) => build(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => build(document.createElementNS(SVG, name), attributes, children);

function quality(value, digits = 4) {
  if (value === null) return "–";
  const written = Math.abs(value).toFixed(digits).replace(/^0\./, ".");
  return value < 0 && Number(written) !== 0 ? "−" + written : written;
}

const signed = (value, digits = 4) => (Number(value.toFixed(digits)) > 0 ? "+" : "") + quality(value, digits);

function significant(value, digits = 3) {
  if (value === 0) return "0";
  const places = Math.max(0, digits - (value < 1) - 1 - Math.floor(Math.log10(value)));
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

// On an axis the zeros behind the point say nothing.
const short = (written) => written.replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");

function seconds(value) {
  if (value === null) return "–";
  if (value === 0) return "0";
  if (value < 1e-3) return significant(value * 1e6) + " µs";
  if (value < 1) return significant(value * 1e3) + " ms";
  return value < 120 ? significant(value) + " s" : significant(value / 60) + " min";
}

const dollars = (value) => (value === null ? "–" : "$" + significant(value));

function counted(value) {
  if (value >= 1e6) return short(significant(value / 1e6)) + " M";
  return value >= 1e4 ? short(significant(value / 1e3)) + " k" : value.toLocaleString("en", { maximumFractionDigits: 1 });
}

const clipped = (text, length) => (text.length > length ? text.slice(0, length - 1).trimEnd() + "…" : text);

const address = (suite, qid) => "#/" + encodeURIComponent(suite.slug) + (qid === undefined ? "" : "/q/" + encodeURIComponent(qid));

// How wide a text will be, before it is drawn.
const ruler = document.createElement("canvas").getContext("2d");
function widthOf(text, size = 12) {
  ruler.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

// An entry that acts like a button wherever it stands: a click, Enter and the space bar are the same.
function acting(action) {
  return {
    tabindex: 0,
    role: "button",
    onclick: action,
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      action(event);
    },
  };
}
