// Runs the blob service of Azurite until its standard input closes: with the process that
// started it, however that one ends. AZURITE is the folder it is installed in.
process.stdin.on("end", () => process.exit(0)).resume();
require(require("path").join(process.env.AZURITE, "node_modules/azurite/dist/src/blob/main.js"));
