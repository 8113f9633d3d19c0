// Where a posterior lies among the prototypes, in the plane that the server chose.

const SVG = "http://www.w3.org/2000/svg";

function shape(kind, values, text) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);

// The point of the plane that a z has; the vertical axis of an image points down.
export function place(map, z) {
  const centred = z.map((value, number) => value - map.centre[number]);
  return [dot(map.axes[0], centred), -dot(map.axes[1], centred)];
}

// Half axes and angle (degrees) of the ellipse at two standard deviations.
export function ellipse(map, std) {
  const weigh = (a, b) => a.reduce((sum, value, number) => sum + value * b[number] * std[number] ** 2, 0);
  const [xx, yy, xy] = [weigh(map.axes[0], map.axes[0]), weigh(map.axes[1], map.axes[1]), -weigh(map.axes[0], map.axes[1])];
  const [middle, radius] = [(xx + yy) / 2, Math.hypot((xx - yy) / 2, xy)];
  const angle = (Math.atan2(2 * xy, xx - yy) / 2) * (180 / Math.PI);
  return [2 * Math.sqrt(middle + radius), 2 * Math.sqrt(Math.max(middle - radius, 0)), angle];
}

export function drawMap(svg, map, profile, way) {
  const [x, y] = place(map, profile.z);
  const [long, short, angle] = ellipse(map, profile.std);
  const parts = [shape("ellipse", { class: "believed", cx: x, cy: y, rx: long, ry: short, transform: `rotate(${angle} ${x} ${y})` })];
  if (way.length > 1) parts.push(shape("polyline", { class: "way", points: way.map((z) => place(map, z).join(",")).join(" ") }));
  for (const one of map.prototypes) {
    const [px, py] = place(map, one.z);
    parts.push(shape("circle", { class: "prototype", cx: px, cy: py, r: 0.035 }));
    parts.push(shape("text", { x: px, y: py - 0.07, "text-anchor": "middle" }, one.name));
  }
  parts.push(shape("circle", { class: "point", cx: x, cy: y, r: 0.045 }));
  svg.replaceChildren(...parts);
}
