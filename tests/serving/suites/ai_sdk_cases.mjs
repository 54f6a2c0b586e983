// The AI SDK of Vercel before the gateway: a text, a stream, a tool loop, an object. Prints one JSON object.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: process.env.GATEWAY_URL, apiKey: process.env.GATEWAY_KEY });
const model = openai("scripted"); // the Responses interface is the default
const weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `18 degrees in ${city}`,
});
const tools = { weather };
const prompt = "What is the weather in 'Rome'?";
const found = {};

const plain = await generateText({ model, prompt: "Say hello." });
found.text = plain.text;
found.usage = plain.usage.outputTokens;

const stream = streamText({ model, prompt: "Say hello." });
found.streamed = "";
for await (const piece of stream.textStream) found.streamed += piece;
found.finish = await stream.finishReason;

const loop = await generateText({ model, prompt, tools, stopWhen: stepCountIs(3) });
found.results = loop.steps.flatMap((step) => step.toolResults.map((result) => result.output));
found.after = loop.text;

const streamedLoop = streamText({ model, prompt, tools, stopWhen: stepCountIs(3) });
found.parts = [];
for await (const part of streamedLoop.fullStream) found.parts.push(part.type);
found.steps = (await streamedLoop.steps).length;

const thinking = await generateText({
  model: openai("gpt-5-scripted"),
  prompt: "Think.",
  providerOptions: { openai: { reasoningEffort: "low", reasoningSummary: "auto", store: false } },
});
found.reasoning = thinking.reasoningText;

const schema = z.object({ name: z.string(), size: z.number() });
found.object = (await generateObject({ model, schema, prompt: "A city: 'Rome' of 3" })).object;
console.log(JSON.stringify(found));
