// A chart of numbers over the last minutes of a stream, on a canvas, with a threshold and the events behind it.

const SHORTEST_S = 30; // that the axis spans, while there is less
const GAP_S = 5; // over which no line is drawn
const EDGE = { left: 44, right: 10, top: 10, bottom: 22 }; // pixels around the chart

// 02:13, or 1:02:13 from an hour on.
function clockOf(seconds) {
  const whole = Math.floor(Math.abs(seconds) + 1e-6), two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600), rest = `${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return (seconds < -1e-6 ? "-" : "") + (hours ? `${hours}:${rest}` : rest);
}

// The smallest of 1, 2, 5, 10, 20 ... (or of `steps`) that divides a range into at most so many parts.
function stepOf(range, parts, steps = null) {
  const power = 10 ** Math.floor(Math.log10(range / parts));
  return (steps ?? [1, 2, 5, 10].map((digit) => digit * power)).find((step) => range / step <= parts) ?? range;
}

const multiples = (first, last, step) =>
  Array.from({ length: Math.max(0, Math.floor(last / step) - Math.ceil(first / step) + 1) }, (_, k) => (Math.ceil(first / step) + k) * step);

class Chart {
  // `column` of the points [time, logit, similarity] is drawn; `most` is the top of the axis, if that is fixed.
  constructor(canvas, column, colour, most = null) {
    Object.assign(this, { canvas, column, colour, most });
    this.context = canvas.getContext("2d");
  }

  // threshold: null for none; spans: pairs of times of events; longestS: what the axis spans at most.
  draw(points, threshold, spans, longestS) {
    const { canvas, context } = this, scale = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const shown = points.filter((point) => point[this.column] !== null);
    if (!shown.length) return;

    const style = getComputedStyle(canvas), colour = (name) => style.getPropertyValue(`--${name}`);
    const last = points.at(-1)[0], lasts = Math.min(longestS, Math.max(SHORTEST_S, last - points[0][0]));
    const first = Math.max(points[0][0], last - lasts);
    const [low, high] = this.range(shown.map((point) => point[this.column]), threshold);
    const x = (time) => EDGE.left + ((time - first) / lasts) * (width - EDGE.left - EDGE.right);
    const y = (value) => height - EDGE.bottom - ((value - low) / (high - low)) * (height - EDGE.top - EDGE.bottom);

    context.fillStyle = colour("old");
    context.globalAlpha = 0.15;
    for (const [start, end] of spans) {
      const left = Math.max(x(start), EDGE.left), right = Math.min(x(end), width - EDGE.right);
      if (right > left) context.fillRect(left, EDGE.top, right - left, height - EDGE.top - EDGE.bottom);
    }
    context.globalAlpha = 1;
    this.axes({ x, y, low, high, first, lasts, width, height, colour });
    if (threshold !== null) this.line([[EDGE.left, y(threshold)], [width - EDGE.right, y(threshold)]], colour("soft"), [5, 4]);
    for (const piece of pieces(shown)) this.line(piece.map((point) => [x(point[0]), y(point[this.column])]), colour(this.colour));
    context.fillStyle = colour("old");
    for (const point of shown) {
      if (threshold === null || point[this.column] <= threshold) continue;
      context.beginPath();
      context.arc(x(point[0]), y(point[this.column]), 2.2, 0, 2 * Math.PI);
      context.fill();
    }
  }

  // The ends of the axis, with room around the values and the threshold.
  range(values, threshold) {
    const all = threshold === null ? values : [...values, threshold];
    const least = all.reduce((a, b) => Math.min(a, b)), most = this.most ?? all.reduce((a, b) => Math.max(a, b));
    const room = Math.max(0.08 * (most - least), 0.01 * Math.max(1, Math.abs(most)));
    return [least - room, most + (this.most === null ? room : 0)];
  }

  axes({ x, y, low, high, first, lasts, width, height, colour }) {
    const { context } = this;
    context.font = "12px system-ui, sans-serif";
    context.lineWidth = 1;
    context.strokeStyle = colour("line");
    context.fillStyle = colour("soft");
    context.textAlign = "right";
    context.textBaseline = "middle";
    const step = stepOf(high - low, (height - EDGE.top - EDGE.bottom) / 28), digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    for (const value of multiples(low, high, step)) {
      this.line([[EDGE.left, y(value)], [width - EDGE.right, y(value)]], colour("line"));
      context.fillText(value.toFixed(digits).replace("-", "−"), EDGE.left - 6, y(value));
    }
    context.textAlign = "center";
    context.textBaseline = "alphabetic";
    for (const time of multiples(first, first + lasts, stepOf(lasts, width / 90, [1, 2, 5, 10, 15, 30, 60, 120]))) {
      if (x(time) < width - EDGE.right - 14) context.fillText(clockOf(time), x(time), height - 6);
    }
  }

  line(places, colour, dashes = []) {
    const { context } = this;
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.setLineDash(dashes);
    context.beginPath();
    for (const [x, y] of places) context.lineTo(x, y);
    context.stroke();
    context.setLineDash([]);
  }
}

// Points in pieces between which there is a gap.
function pieces(points) {
  const found = [[]];
  for (const point of points) {
    const before = found.at(-1).at(-1);
    if (before && point[0] - before[0] > GAP_S) found.push([]);
    found.at(-1).push(point);
  }
  return found;
}
