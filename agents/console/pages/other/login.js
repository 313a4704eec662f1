/** The login page: one field for a token. */

import { element } from "../core/dom.js";
import { enter } from "../core/session.js";

export function loginPage(main) {
  document.title = "Log in – Faultline";
  document.body.dataset.page = "login";
  const refused = element("p", { class: "problem", role: "alert", hidden: true });
  const token = element("input", { type: "password", required: true, autocomplete: "current-password", id: "token" });
  const submit = element("button", { class: "primary" }, "Log in");
  const form = element(
    "form",
    { class: "login" },
    element("h1", {}, "Log in"),
    element("label", { for: "token" }, "Token"),
    token,
    refused,
    submit,
    element("p", { class: "muted" }, "Tokens are lines of the file that the console was started with."),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    refused.hidden = true;
    try {
      await enter("/api/login", { token: token.value });
      location.replace(nextPage());
    } catch (error) {
      refused.textContent = error.message;
      refused.hidden = false;
      submit.disabled = false;
    }
  });
  main.append(element("section", { class: "panel login-panel" }, form));
  token.focus();
}

/** Where to go afterwards: only to a page of this server. */
function nextPage() {
  const next = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  return next.origin === location.origin ? next.pathname + next.search : "/";
}
