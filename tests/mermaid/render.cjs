// Draws the charts that stdin has as a JSON list of texts, and tells what is in each picture;
// with --parse, it only reads them.
const { readFileSync } = require("node:fs");
const { runInThisContext } = require("node:vm");
const { JSDOM } = require("jsdom");

const { window } = new JSDOM("", { pretendToBeVisual: true });
for (const name of ["document", "Element", "CSSStyleSheet", "DOMParser", "XMLSerializer"]) {
  globalThis[name] = window[name];
}
Object.assign(globalThis, { window, getComputedStyle: window.getComputedStyle.bind(window) });
// jsdom does no layout.
const box = () => ({ x: 0, y: 0, width: 100, height: 20 });
window.SVGElement.prototype.getBBox = box;
window.SVGElement.prototype.getComputedTextLength = () => 100;
window.Element.prototype.getBoundingClientRect = box;

runInThisContext(readFileSync(require.resolve("@mermaid-js/tiny"), "utf8"));
const { mermaid } = globalThis;
mermaid.initialize({ startOnLoad: false, securityLevel: "strict" });

async function picture(chart) {
  try {
    if (process.argv.includes("--parse")) {
      return await mermaid.parse(chart);
    }
    const { svg } = await mermaid.render("chart", chart);
    const page = new window.DOMParser().parseFromString(svg, "text/html");
    page.querySelectorAll("br").forEach((line) => line.replaceWith("\n"));
    return {
      nodes: [...page.querySelectorAll("g.node")].map((node) => ({
        text: node.textContent.replaceAll("\u200b", "").trim(),
        state: node.classList[node.classList.length - 1],
      })),
      edges: page.querySelectorAll("path.flowchart-link").length,
      tags: [...new Set([...page.querySelectorAll("*")].map((item) => item.localName))],
    };
  } catch (error) {
    return { error: String(error) };
  }
}

(async () => {
  const pictures = [];
  for (const chart of JSON.parse(readFileSync(0, "utf8"))) {
    pictures.push(await picture(chart));
  }
  process.stdout.write(JSON.stringify(pictures));
})();
