/** Shows the page that the address names, without loading the document again. */

let pages = [];
let main = null;
let shown = new AbortController();

/** Begins; each entry of `table` is a pattern of the path and a function (main, signal, parts) that fills the page. */
export function route(table, into) {
  pages = table;
  main = into;
  addEventListener("popstate", () => show());
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='/']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    navigate(link.getAttribute("href"));
  });
  show(false);
}

/** Goes to a page. */
export function navigate(address) {
  history.pushState(null, "", address);
  show();
}

/** The address of a machine's page. */
export const machineAddress = (machine) => `/machines/${encodeURIComponent(machine)}`;

function show(focus = true) {
  shown.abort();
  shown = new AbortController();
  const path = location.pathname;
  for (const link of document.querySelectorAll(".head nav a")) {
    const here = link.getAttribute("href");
    const current = here === path || (here === "/" && path.startsWith("/machines/"));
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren();
  scrollTo(0, 0);
  for (const [pattern, page] of pages) {
    const parts = pattern.exec(path);
    if (!parts) continue;
    page(main, shown.signal, parts.slice(1).map(decodeURIComponent));
    if (focus) main.focus({ preventScroll: true });
    return;
  }
  main.textContent = "There is no such page.";
}
