// nDCG of the first 1, 2, … 20: where in the list a system earns what it earns.

function drawDepth(area, suite, index) {
  const [width, height] = [area.clientWidth, area.clientWidth < 420 ? 300 : 340];
  const room = Math.min(width * 0.36, Math.max(...suite.systems.map((system) => widthOf(clipped(system.name, 22), 12))) + 16);
  const [left, right, top, bottom] = [40, width - room, 14, height - 30];
  const depths = suite.systems[0].depth.length;
  const y = qualityScale(suite.systems.flatMap((system) => system.depth), bottom, top);
  const x = linear(1, depths, left + 10, right - 6);
  const drawn = canvas(width, height, "mean nDCG by depth");
  const ticks = [1, 5, 10, 15, 20].filter((tick) => tick <= depths);
  drawn.append(
    qualityAxis(y, left, right),
    svg("g", { class: "axis", "aria-hidden": "true" }, ticks.map((k) => svg("text", { x: x(k), y: bottom + 20, "text-anchor": "middle" }, k === 1 ? "first 1" : String(k)))),
  );
  const ends = spread(suite.systems.map((system) => y(system.depth[depths - 1])), 15, top, bottom);
  const focus = chosen[index].focus;
  const order = suite.systems.map((_, place) => place).sort((a, b) => (a === focus) - (b === focus));
  for (const place of order) {
    const system = suite.systems[place];
    const way = "M" + system.depth.map((value, k) => `${x(k + 1).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
    const last = y(system.depth[depths - 1]);
    const said = `${system.name}: nDCG@1 ${quality(system.depth[0])}, nDCG@5 ${quality(system.depth[4])}, nDCG@10 ${quality(system.depth[9])}, nDCG@20 ${quality(system.depth[19])}`;
    drawn.append(
      svg(
        "g",
        { class: `series${place === focus ? " chosen" : ""}`, "aria-label": said, ...acting(() => choose(index, place)) },
        svg("title", {}, said),
        svg("path", { d: way, class: "hit-line" }),
        svg("path", { d: way, class: `curve${place === suite.baseline ? " base" : ""}` }),
        Math.abs(last - ends[place]) > 2 && svg("path", { d: `M${right - 4} ${last}L${right + 5} ${ends[place]}`, class: "leader" }),
        svg("text", { x: right + 8, y: ends[place] + 4, class: `label${place === focus ? "" : " quiet"}` }, clipped(system.name, Math.max(8, Math.floor(room / 6.6)))),
      ),
    );
  }
  area.replaceChildren(drawn);
}
