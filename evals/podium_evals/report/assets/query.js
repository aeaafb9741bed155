// The page of a query: what each system made of the same candidates, and what became of every passage.

const loaded = new Map();
const TOP = 10;

// Parsed when the first query of a suite is opened, and kept.
function detailsOf(index) {
  if (!loaded.has(index)) loaded.set(index, JSON.parse(document.getElementById(`details-${index}`).textContent));
  return loaded.get(index);
}

function drawQuery(page, index, place) {
  const suite = SUITES[index];
  const block = detailsOf(index);
  const query = block.queries[place];
  const view = { suite, index, place, query, docs: query.docs.map((doc) => block.docs[doc]), passage: null, ranks: TOP };
  view.columns = firstColumns(index, page.clientWidth || innerWidth);
  const lists = el("div", { class: "part" });
  const redraw = () => {
    const [at, row] = [lists.querySelector(".lists")?.scrollLeft || 0, document.activeElement?.dataset?.key];
    lists.replaceChildren(...sideBySide(view, redraw));
    lists.querySelector(".lists").scrollLeft = at;
    if (row) lists.querySelector(`[data-key="${CSS.escape(row)}"]`)?.focus({ preventScroll: true });
  };
  redraw();
  page.replaceChildren(
    crumbs(suite, index, place),
    el("h1", { tabindex: "-1" }, suite.queries[place] || "(an empty query)"),
    el("p", { class: "standfirst" }, told(suite, place, query)),
    ...(query.found ? [] : [el("p", { class: "banner" }, "The first stage had none: no candidate is relevant, so that no order of them could be better.")]),
    perSystem(view),
    lists,
    el("div", { class: "part" }, el("h2", {}, "Where each passage went"), el("p", { class: "about" }, "Each line is a passage, each column a system; the digit is the judged grade."), bump(view, redraw, page.clientWidth || 600)),
  );
}

function told(suite, place, query) {
  const outside = query.relevant - query.found;
  return `${suite.name}, query ${suite.qids[place]} · ${query.n} candidates, ${query.found} of them relevant` + (outside > 0 ? ` · ${outside} more that the first stage did not find` : "");
}

function firstColumns(index, width) {
  const { focus, against } = chosen[index];
  const { systems, best } = SUITES[index];
  const others = [...systems.keys()].sort((a, b) => systems[b].mean - systems[a].mean);
  return [...new Set([against, focus, best, ...others])].slice(0, width < 700 ? 2 : 3);
}

function crumbs(suite, index, place) {
  const sorted = differencesOf(suite, index);
  const here = sorted.findIndex((entry) => entry.place === place);
  const step = (to, text) => (sorted[to] ? el("a", { href: address(suite, sorted[to].qid), title: sorted[to].query }, text) : null);
  return el("nav", { class: "crumbs", "aria-label": "queries" }, el("a", { href: address(suite) }, `← ${suite.name}`), el("span", { class: "step" }, step(here - 1, "← larger gain"), step(here + 1, "smaller gain →")));
}

function errorsOf(view, answer) {
  const said = [];
  const add = (list, one, many) => list && said.push(`${list.length} ${list.length === 1 ? one : many}`);
  add(answer.demoted, "relevant demoted", "relevant demoted");
  add(answer.promoted, "irrelevant promoted", "irrelevant promoted");
  add(answer.unjudged, "unjudged promoted", "unjudged promoted");
  if (!view.query.found) said.push("first stage had none");
  if (answer.unreadable) said.push(`${answer.unreadable} ${answer.unreadable === 1 ? "reply" : "replies"} unreadable`);
  if (answer.repaired) said.push(`${answer.repaired} ${answer.repaired === 1 ? "reply" : "replies"} repaired`);
  if (answer.completion) said.push(answer.completion.replaceAll("_", " "));
  if (answer.error) said.push(answer.error);
  return said;
}

function perSystem(view) {
  const { suite, index, place, query } = view;
  const base = suite.systems[chosen[index].against].values[place];
  const head = ["system", suite.measure, `Δ ${suite.systems[chosen[index].against].name}`, "calls", "tokens", "$ / 1,000", "time", "what went wrong"];
  const rows = query.systems.map((answer, k) => {
    const value = suite.systems[k].values[place];
    const gap = value - base;
    const [calls, tokens, cost, time] = answer.spent;
    const timed = suite.systems[k].latency !== null;
    return el(
      "tr",
      { class: k === chosen[index].focus ? "focus" : "" },
      el("th", { scope: "row" }, suite.systems[k].name),
      el("td", { class: "strong" }, quality(value)),
      el("td", { class: gap > 1e-6 ? "gain" : gap < -1e-6 ? "loss" : "faint" }, k === chosen[index].against ? "–" : signed(gap)),
      el("td", {}, suite.systems[k].kind === "run" ? "–" : calls.toLocaleString("en")),
      el("td", {}, suite.systems[k].kind === "run" ? "–" : tokens.toLocaleString("en")),
      el("td", {}, suite.systems[k].cost === null ? "–" : dollars(cost === null ? null : 1000 * cost)),
      el("td", {}, timed ? seconds(time) : "–"),
      el("td", { class: "text long" }, errorsOf(view, answer).join(", ") || (answer.unchanged && k !== suite.baseline ? "order unchanged" : "")),
    );
  });
  const table = el("table", {}, el("thead", {}, el("tr", {}, head.map((title, k) => el("th", { scope: "col", class: k === 7 ? "text" : "" }, title)))), el("tbody", {}, rows));
  return el("div", { class: "wide part", tabindex: 0, role: "region", "aria-label": "systems on this query" }, table);
}

function sideBySide(view, redraw) {
  const { suite, index } = view;
  const chips = suite.systems.map((system, k) => {
    const shown = view.columns.includes(k);
    const toggle = () => {
      view.columns = shown ? view.columns.filter((other) => other !== k) : [...view.columns, k];
      redraw();
    };
    return el("button", { type: "button", class: "chip", "aria-pressed": String(shown), disabled: shown && view.columns.length === 1, "data-key": `chip-${k}`, onclick: toggle }, system.name);
  });
  const longer = () => {
    view.ranks = view.ranks === TOP ? DATA.shown : TOP;
    redraw();
  };
  return [
    el("h2", {}, "Side by side"),
    el("div", { class: "chips", role: "group", "aria-label": "systems that are shown" }, chips, el("button", { type: "button", class: "chip", "data-key": "longer", onclick: longer }, view.ranks === TOP ? `show ${DATA.shown}` : `show ${TOP}`)),
    key(suite.systems[chosen[index].against].name),
    el("div", { class: "lists" }, view.columns.map((k) => column(view, k, redraw))),
    ...(view.passage === null ? [] : [sheet(view, redraw)]),
  ];
}

function key(against) {
  const named = [[null, "not judged"], [0, "irrelevant"], [1, "judged grade; the stronger the tone, the better"]];
  return el("p", { class: "key" }, named.map(([grade, text]) => el("span", {}, chipOf(grade), text)), el("span", {}, `▲ ▼ ranks up and down from ${against}`));
}

const gradeClass = (grade) => (grade === null ? "gx" : `g${Math.max(0, Math.min(3, grade))}`);
const chipOf = (grade) => el("span", { class: `grade ${gradeClass(grade)}`, title: grade === null ? "not judged" : `grade ${grade}` }, grade === null ? "?" : String(grade));

function column(view, k, redraw) {
  const { suite, query, place } = view;
  const answer = query.systems[k];
  const order = answer.ranks.map((rank, doc) => ({ rank, doc })).filter((entry) => entry.rank).sort((a, b) => a.rank - b.rank);
  const top = order.filter((entry) => entry.rank <= view.ranks);
  const out = (answer.demoted || []).map((doc) => ({ rank: answer.ranks[doc], doc })).filter((entry) => !entry.rank || entry.rank > view.ranks);
  return el(
    "section",
    { "aria-label": suite.systems[k].name },
    el("h3", {}, suite.systems[k].name),
    el("p", { class: "sum" }, `${suite.measure} ${quality(suite.systems[k].values[place])}`),
    el(
      "div",
      {},
      top.length ? el("ol", {}, top.map((entry) => item(view, k, entry, redraw))) : el("p", { class: "missing" }, answer.error || "No answer."),
      out.length > 0 && el("p", { class: "out" }, `Relevant, and no longer in the first ${TOP}`),
      out.length > 0 && el("ol", {}, out.map((entry) => item(view, k, entry, redraw))),
    ),
  );
}

function moved(before, now) {
  if (!before || !now) return ["", before ? "gone" : "new"];
  if (before === now) return ["", "·"];
  return before > now ? ["rose", `▲${before - now}`] : ["fell", `▼${now - before}`];
}

function item(view, k, { rank, doc }, redraw) {
  const { query, index } = view;
  const answer = query.systems[k];
  const [docid, text] = view.docs[doc];
  const against = chosen[index].against;
  const [kind, move] = k === against ? ["", ""] : moved(query.systems[against].ranks[doc], rank);
  const wrong = (answer.demoted || []).includes(doc) || (answer.promoted || []).includes(doc);
  const why = (answer.demoted || []).includes(doc) ? "relevant, demoted" : (answer.promoted || []).includes(doc) ? "irrelevant, promoted" : "";
  const select = () => {
    view.passage = view.passage === doc ? null : doc;
    redraw();
  };
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: `passage${wrong ? " wrong" : ""}`, "aria-pressed": String(view.passage === doc), "data-key": `${k}-${doc}`, title: why || null, onclick: select },
      el("span", { class: "rank" }, rank || "–"),
      chipOf(query.grades[doc]),
      el("span", { class: "docid" }, docid),
      el("span", { class: `move ${kind}` }, move),
      el("span", { class: "words" }, text || "(no text)"),
    ),
  );
}

function sheet(view, redraw) {
  const { suite, query } = view;
  const [docid, text] = view.docs[view.passage];
  const grade = query.grades[view.passage];
  const close = () => {
    view.passage = null;
    redraw();
  };
  const ranks = suite.systems.map((system, k) => `${system.name} ${query.systems[k].ranks[view.passage] || "–"}`);
  return el(
    "aside",
    { class: "sheet", "aria-label": "the chosen passage", onkeydown: (event) => event.key === "Escape" && close() },
    el("button", { type: "button", class: "close", "aria-label": "close", onclick: close }, "✕"),
    el("h4", {}, docid, " ", chipOf(grade), grade === null ? " not judged" : ` grade ${grade}`),
    el("p", {}, text || "(no text)"),
    el("p", { class: "about" }, `Ranks: ${ranks.join(" · ")}`),
  );
}

function bump(view, redraw, room) {
  const { suite, query } = view;
  const count = suite.systems.length;
  const [ranks, row, top] = [TOP, 26, 74];
  const step = Math.max(44, Math.min(150, (room - 70) / count));
  const [width, height] = [Math.max(room, step * count + 40), top + ranks * row + 8];
  const x = (k) => 46 + k * step;
  const y = (rank) => top + (rank - 0.5) * row;
  const drawn = canvas(width, height, "ranks of each passage in each system");
  drawn.classList.add("bump");
  const names = suite.systems.map((system, k) => svg("text", { x: x(k) - 4, y: top - 14, class: "label quiet", transform: `rotate(-28 ${x(k) - 4} ${top - 14})` }, clipped(system.name, 18)));
  const numbers = Array.from({ length: ranks }, (_, k) => svg("text", { x: 14, y: y(k + 1) + 4, "text-anchor": "end" }, String(k + 1)));
  drawn.append(svg("g", { class: "axis", "aria-hidden": "true" }, numbers), svg("g", {}, names));
  const rest = y(ranks) + row; // Below the last rank that is drawn, and out of the picture.
  query.docs.map((_, doc) => doc).filter((doc) => query.systems.some((answer) => answer.ranks[doc] && answer.ranks[doc] <= ranks))
    .sort((a, b) => (query.grades[a] || 0) - (query.grades[b] || 0))
    .forEach((doc) => drawn.append(wayOf(view, doc, { x, y, ranks, rest, redraw })));
  return el("div", { class: "scroll-x" }, drawn);
}

function wayOf(view, doc, { x, y, ranks, rest, redraw }) {
  const { query, suite } = view;
  const grade = query.grades[doc];
  const places = query.systems.map((answer, k) => ({ x: x(k), in: answer.ranks[doc] > 0 && answer.ranks[doc] <= ranks, y: answer.ranks[doc] > 0 && answer.ranks[doc] <= ranks ? y(answer.ranks[doc]) : rest }));
  let way = "";
  for (let k = 1; k < places.length; k += 1) {
    const [from, to] = [places[k - 1], places[k]];
    if (!from.in && !to.in) continue;
    const middle = (from.x + to.x) / 2;
    way += `M${from.x} ${from.y}C${middle} ${from.y} ${middle} ${to.y} ${to.x} ${to.y}`;
  }
  const said = `${view.docs[doc][0]}, ${grade === null ? "not judged" : `grade ${grade}`}: ` + suite.systems.map((system, k) => `${system.name} ${query.systems[k].ranks[doc] || "–"}`).join(", ");
  const select = () => {
    view.passage = doc;
    redraw();
  };
  return svg(
    "g",
    { class: "way", onclick: select },
    svg("title", {}, said),
    svg("path", { d: way, class: grade > 0 ? "relevant" : "" }),
    places.filter((place) => place.in).map((place) => [
      svg("circle", { cx: place.x, cy: place.y, r: 9, class: gradeClass(grade) }),
      svg("text", { x: place.x, y: place.y + 3.5, class: `digit ${gradeClass(grade)}` }, grade === null ? "" : String(grade)),
    ]),
  );
}
