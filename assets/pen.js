// Two pens with the same strokes: `canvasPen` draws on the screen and for PNG files, `svgPen` writes an SVG. A figure that
// is drawn with a pen looks the same in all three. Lengths are CSS pixels, points are [x, y], colours are CSS colours.
//
//   image(canvas, x, y, width, height)        a raster, without smoothing
//   box(x, y, width, height, look)            look: { fill, stroke, width, dash, opacity }
//   path(points, look)                        look.closed joins the ends
//   dot(x, y, radius, look)
//   text(words, x, y, look)                   look: { size, weight, fill, halo, align, baseline, angle }, angle in radians
//   within(x, y, width, height, draw)         what `draw` draws is cut off at this box
const FONT_OF_FIGURES = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif';

function canvasPen(context) {
  function paint(look, path) {
    context.globalAlpha = look.opacity ?? 1;
    if (look.fill) {
      context.fillStyle = look.fill;
      context.fill(path);
    }
    if (look.stroke) {
      context.strokeStyle = look.stroke;
      context.lineWidth = look.width ?? 1;
      context.setLineDash(look.dash ?? []);
      context.stroke(path);
    }
    context.globalAlpha = 1;
  }
  return {
    image(canvas, x, y, width, height) {
      context.imageSmoothingEnabled = false;
      context.drawImage(canvas, x, y, width, height);
    },
    box(x, y, width, height, look) {
      const path = new Path2D();
      path.rect(x, y, width, height);
      paint(look, path);
    },
    path(points, look) {
      const path = new Path2D();
      points.forEach(([x, y], n) => (n ? path.lineTo(x, y) : path.moveTo(x, y)));
      if (look.closed) path.closePath();
      paint(look, path);
    },
    dot(x, y, radius, look) {
      const path = new Path2D();
      path.arc(x, y, radius, 0, 2 * Math.PI);
      paint(look, path);
    },
    text(words, x, y, look) {
      context.save();
      context.translate(x, y);
      context.rotate(look.angle ?? 0);
      context.font = `${look.weight ?? 400} ${look.size}px ${FONT_OF_FIGURES}`;
      context.textAlign = look.align ?? "left";
      context.textBaseline = look.baseline ?? "middle";
      if (look.halo) {
        context.strokeStyle = look.halo;
        context.lineWidth = 4;
        context.lineJoin = "round";
        context.strokeText(words, 0, 0);
      }
      context.fillStyle = look.fill;
      context.fillText(words, 0, 0);
      context.restore();
    },
    within(x, y, width, height, draw) {
      context.save();
      context.beginPath();
      context.rect(x, y, width, height);
      context.clip();
      draw();
      context.restore();
    },
  };
}

function svgPen(width, height) {
  const parts = [];
  let clips = 0;
  const number = (value) => Number(value.toFixed(2));
  const escaped = (words) =>
    String(words).replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);
  const attributes = (all) =>
    Object.entries(all)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => ` ${name}="${typeof value === "number" ? number(value) : escaped(value)}"`)
      .join("");
  const looks = (look) => ({
    fill: look.fill ?? "none",
    stroke: look.stroke,
    "stroke-width": look.stroke && (look.width ?? 1),
    "stroke-dasharray": look.dash?.join(" "),
    opacity: look.opacity,
  });
  return {
    image(canvas, x, y, wide, high) {
      const large = document.createElement("canvas"); // not every program leaves an enlarged picture sharp
      large.width = Math.round(wide * 2);
      large.height = Math.round(high * 2);
      canvasPen(large.getContext("2d")).image(canvas, 0, 0, large.width, large.height);
      const data = { href: large.toDataURL("image/png"), preserveAspectRatio: "none" };
      parts.push(`<image${attributes({ x, y, width: wide, height: high, ...data })}/>`);
    },
    box(x, y, wide, high, look) {
      parts.push(`<rect${attributes({ x, y, width: wide, height: high, ...looks(look) })}/>`);
    },
    path(points, look) {
      const steps = points.map(([x, y], n) => `${n ? "L" : "M"}${number(x)} ${number(y)}`).join("");
      parts.push(`<path${attributes({ d: steps + (look.closed ? "Z" : ""), ...looks(look) })}/>`);
    },
    dot(x, y, radius, look) {
      parts.push(`<circle${attributes({ cx: x, cy: y, r: radius, ...looks(look) })}/>`);
    },
    text(words, x, y, look) {
      const placed = {
        x,
        y,
        transform: look.angle ? `rotate(${number((look.angle * 180) / Math.PI)} ${number(x)} ${number(y)})` : undefined,
        "font-family": FONT_OF_FIGURES,
        "font-size": look.size,
        "font-weight": look.weight,
        fill: look.fill,
        "text-anchor": { left: "start", center: "middle", right: "end" }[look.align ?? "left"],
        "dominant-baseline": { middle: "central", top: "hanging", alphabetic: "alphabetic" }[look.baseline ?? "middle"],
      };
      const halo = { stroke: look.halo, "stroke-width": 4, "stroke-linejoin": "round", "paint-order": "stroke" };
      parts.push(`<text${attributes({ ...placed, ...(look.halo ? halo : {}) })}>${escaped(words)}</text>`);
    },
    within(x, y, wide, high, draw) {
      const name = `clip${clips++}`;
      const shape = `<rect${attributes({ x, y, width: wide, height: high })}/>`;
      parts.push(`<clipPath id="${name}">${shape}</clipPath><g clip-path="url(#${name})">`);
      draw();
      parts.push("</g>");
    },
    // The whole file. `title` is what screen readers say of the picture.
    file(title) {
      const size = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`;
      const named = `<title>${escaped(title)}</title>`;
      return `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img">${named}${parts.join("")}</svg>\n`;
    },
  };
}
