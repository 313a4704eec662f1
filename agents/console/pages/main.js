/** Starts the console: who is here, the live connection, and the page that the address names. */

import { listen, shortcut, showHelp } from "./core/keys.js";
import { follow, live } from "./core/live.js";
import { announce } from "./core/messages.js";
import { navigate, route } from "./core/router.js";
import { begin, enter, goToLogin, leave } from "./core/session.js";
import { showStatus } from "./core/status.js";
import { capital } from "./core/symbols.js";
import { switchTheme } from "./core/theme.js";
import { useZone } from "./core/format.js";
import { alarmsPage } from "./alarms/page.js";
import { dataPage } from "./other/data.js";
import { loginPage } from "./other/login.js";
import { modelsPage } from "./other/models.js";
import { machinePage } from "./machine/page.js";
import { plantPage } from "./plant/page.js";

const PAGES = [
  [/^\/$/, plantPage],
  [/^\/machines\/(.+)$/, machinePage],
  [/^\/alarms$/, alarmsPage],
  [/^\/data$/, dataPage],
  [/^\/models$/, modelsPage],
  [/^\/login$/, loginPage],
];

/** Has screen readers announce new alarms, on every page. */
function announceAlarms() {
  follow(["alarms"], undefined, ({ changed, before }) => {
    for (const [place, alarm] of changed.entries()) {
      if (alarm.state === "unacknowledged" && before[place]?.state !== "unacknowledged") {
        announce(`${capital(alarm.priority)} alarm: ${alarm.alarm_title}, ${alarm.title}`);
      }
    }
  });
}

async function start() {
  const session = await begin();
  useZone(session.time_zone);
  document.getElementById("plant-name").textContent = session.plant.replaceAll("_", " ");
  const logout = document.getElementById("logout");
  logout.hidden = !session.logout;
  logout.addEventListener("click", async () => {
    await enter("/api/logout", {});
    live.stop();
    leave("/login");
  });
  document.getElementById("theme").addEventListener("click", switchTheme);
  document.getElementById("help").addEventListener("click", showHelp);
  shortcut("?", "show these keys", showHelp);
  shortcut("t", "light or dark", switchTheme);
  shortcut("1", "plant", () => navigate("/"));
  shortcut("2", "alarms", () => navigate("/alarms"));
  shortcut("3", "data", () => navigate("/data"));
  shortcut("4", "models", () => navigate("/models"));
  listen();
  showStatus();
  if (session.login && location.pathname !== "/login") {
    goToLogin();
    return;
  }
  if (!session.login) {
    announceAlarms();
    live.start();
  }
  route(PAGES, document.getElementById("main"));
}

start().catch((error) => {
  const box = document.getElementById("connection");
  box.hidden = false;
  box.textContent = `${error.message} Load the page again.`;
});
